//! Every packet case on the host. The same table runs through the loaded programs in `lb-userspace`.

use lb_common::{
    datapath::Scratch,
    testing::{cases, sock_cases},
};

/// Fewer would mean that the table lost a part.
const AT_LEAST: usize = 2500;

#[test]
fn every_packet_case_holds_on_the_host() {
    let cases = cases::all();
    assert!(cases.len() >= AT_LEAST, "{} packet cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases fail:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What an earlier packet left in the working memory means nothing to the next one.
#[test]
fn every_packet_case_holds_after_every_other_kind_of_packet() {
    let cases = cases::all();
    let mut scratch = Scratch::default();
    // Each case after the one before it, after the one behind it, and after some from elsewhere.
    let strides = [1, cases.len() - 1, 7, 31, 101, 211, 389];
    let mut wrong = Vec::new();
    for stride in strides {
        let mut at = 0;
        for _ in 0..cases.len() {
            at = (at + stride) % cases.len();
            wrong.extend(cases[at].run_after(&mut scratch).err());
        }
    }
    assert!(wrong.is_empty(), "{} runs fail:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn names_tell_the_cases_apart() {
    let mut names: Vec<String> = cases::all().into_iter().map(|case| case.name).collect();
    names.extend(sock_cases::all().into_iter().map(|case| case.name));
    names.sort();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
    assert!(twice.is_empty(), "used twice: {twice:#?}");
}

#[test]
fn every_socket_case_holds() {
    let cases = sock_cases::all();
    assert!(cases.len() >= 40, "{} socket cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases fail:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
