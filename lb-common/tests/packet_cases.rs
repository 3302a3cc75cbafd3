//! Every packet case on the host. The same table runs through the loaded programs in `lb-userspace`.

use lb_common::testing::{cases, sock_cases};

/// Fewer would mean that the table lost a part.
const AT_LEAST: usize = 100;

#[test]
fn every_packet_case_holds_on_the_host() {
    let cases = cases::all();
    assert!(cases.len() >= AT_LEAST, "{} packet cases", cases.len());
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.run().err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases fail:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
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
