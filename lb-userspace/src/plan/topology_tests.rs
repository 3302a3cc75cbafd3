//! The rules of endpoint choice, one row each. Rows are named after the rule they show. Every situation of kube-proxy's
//! own `TestCategorizeEndpoints` (Kubernetes 1.35) stands here with the answer that it has there; those that differ only
//! in the policies that ask are one row here, as a row always answers for both. Which policy asks is in `policy_tests`.

use super::{Candidate, Categories, Here};
use crate::{
    model::{Endpoint, Policy},
    plan::state::{Backend, BackendState},
};

/// One situation. Endpoints are written `NAME[@NODE] [FLAG…]`, separated by commas; the flags are `notready`,
/// `term` (terminating, not ready, serving), `dead` (terminating, not ready, not serving), `ready-term`,
/// `serving` (serving, not ready, not terminating), `forced` (ready and terminating, not serving), `z:ZONE+ZONE` and `n:NODE+NODE` (hints). The node is `n1` in `a`.
struct Row {
    rule: &'static str,
    endpoints: &'static str,
    zone: Option<&'static str>,
    cluster: &'static str,
    local: &'static str,
    any: bool,
}

impl Default for Row {
    fn default() -> Self {
        Self { rule: "", endpoints: "", zone: Some("a"), cluster: "", local: "", any: true }
    }
}

/// One endpoint as [`Row`] writes it.
pub(in crate::plan) fn endpoint(text: &str) -> Endpoint {
    let mut words = text.split_whitespace();
    let (name, node) = words.next().map(|w| w.split_once('@').unwrap_or((w, ""))).expect("an endpoint has a name");
    let mut e = Endpoint {
        node_name: (!node.is_empty()).then(|| node.into()),
        ..Endpoint::new(format!("10.0.0.{name}").parse().expect("the name is a number"))
    };
    let hints = |list: &str| list.split('+').map(Into::into).collect();
    for word in words {
        match word.split_once(':') {
            Some(("z", zones)) => e.zone_hints = hints(zones),
            Some(("n", nodes)) => e.node_hints = hints(nodes),
            _ => {
                (e.ready, e.serving, e.terminating) = match word {
                    "notready" => (false, false, false),
                    "serving" => (false, true, false),
                    "term" => (false, true, true),
                    "dead" => (false, false, true),
                    // publishNotReadyAddresses publishes what does not serve, too.
                    "forced" => (true, false, true),
                    "ready-term" => (true, true, true),
                    other => panic!("unknown flag {other}"),
                };
            }
        }
    }
    e
}

/// Backends as their names, `t` behind those that terminate.
pub(in crate::plan) fn list(backends: &[Backend]) -> String {
    let name = |b: &Backend| {
        let name = b.address.to_string().replace("10.0.0.", "");
        if b.state == BackendState::Terminating { format!("{name}t") } else { name }
    };
    backends.iter().map(name).collect::<Vec<_>>().join(" ")
}

/// `1 2 | 3t`: backends, and behind the bar what drains.
fn text(categories: &Categories, policy: Policy) -> String {
    let selection = categories.by(policy);
    let draining = list(&selection.draining);
    let bar = if draining.is_empty() { String::new() } else { format!(" | {draining}") };
    format!("{}{bar}", list(&selection.backends))
}

#[track_caller]
fn check(Row { rule, endpoints, zone, cluster, local, any }: Row) {
    let endpoints: Vec<_> = endpoints.split(',').map(str::trim).filter(|t| !t.is_empty()).map(endpoint).collect();
    let here = Here { name: "n1", zone };
    let candidates: Vec<_> = endpoints.iter().map(|endpoint| Candidate { endpoint, port: 80, weight: 1 }).collect();
    let found = Categories::of(&candidates, here);
    assert_eq!(text(&found, Policy::Cluster), cluster, "cluster: {rule}");
    assert_eq!(text(&found, Policy::Local), local, "local: {rule}");
    assert_eq!(found.any, any, "any: {rule}");
}

macro_rules! rows {
    ($($name:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        $(#[test]
        fn $name() {
            check(Row { rule: stringify!($name), $($field: $value,)* ..Row::default() });
        })*
    };
}

rows! {
    no_endpoint_is_nothing { any: false }
    ready_ones_take_all_here { endpoints: "1@n1, 2@n1", cluster: "1 2", local: "1 2" }
    ready_ones_take_all { endpoints: "1@n1, 2@n2, 3", cluster: "1 2 3", local: "1" }
    a_node_name_decides_what_is_local { endpoints: "1, 2@n11, 3@n1", cluster: "1 2 3", local: "3" }
    unready_ones_take_nothing { endpoints: "1@n1 notready, 2@n2", cluster: "2", local: "" }
    unready_ones_everywhere_are_nothing { endpoints: "1@n2 notready, 2@n1 notready, 3@n1 serving", any: false }
    only_unready_ones_are_nothing { endpoints: "1@n1 notready, 2 dead", any: false }
    serving_without_terminating_is_no_fallback { endpoints: "1@n1 serving", any: false }

    // KEP 1669.
    terminating_ones_drain_beside_ready_ones { endpoints: "1@n1, 2@n1 term, 3@n2 term", cluster: "1 | 2t 3t", local: "1 | 2t" }
    terminating_ones_serve_when_nothing_else_does { endpoints: "1@n1 term, 2@n2 term", cluster: "1t 2t", local: "1t" }
    the_fallback_is_each_policys_own { endpoints: "1@n2, 2@n1 term", cluster: "1 | 2t", local: "2t" }
    the_dead_never_serve { endpoints: "1@n1 dead, 2@n2 dead, 3@n2", cluster: "3", local: "" }
    fallback_leaves_out_the_dead { endpoints: "1@n1 term, 2@n1 dead, 3@n1 notready", cluster: "1t", local: "1t" }
    ready_while_terminating_is_active { endpoints: "1@n1 ready-term, 2 term", cluster: "1 | 2t", local: "1" }

    ready_elsewhere_and_terminating_here {
        endpoints: "1@n2, 2@n1 notready, 3@n1 term, 4@n2 term", cluster: "1 | 3t 4t", local: "3t"
    }
    publishing_unready_ones_ignores_their_serving { endpoints: "1@n1 forced, 2@n2 term", cluster: "1 | 2t", local: "1" }
    terminating_without_being_asked_to_serve { endpoints: "1@n1 dead, 2@n2 term", cluster: "2t", local: "" }
    the_unready_do_not_drain { endpoints: "1@n1, 2@n1 dead, 3@n1 serving, 4@n1 notready", cluster: "1", local: "1" }

    // KEP 2086 and externalTrafficPolicy: nothing here, but something elsewhere.
    local_without_local_ones { endpoints: "1@n2, 2@n3", cluster: "1 2", local: "" }
    local_without_local_ones_but_terminating_elsewhere { endpoints: "1@n2 term", cluster: "1t", local: "" }

    // KEP 2433.
    zone_hints_choose { endpoints: "1 z:a, 2 z:b, 3 z:c, 4 z:a", cluster: "1 4" }
    unready_ones_of_this_zone_are_left_out { endpoints: "1 z:a, 2 z:b, 3 z:c, 4 z:a notready", cluster: "1" }
    hints_and_policy_local_differ { endpoints: "1@n1 z:a, 2@n1 z:b, 3@n2 z:a, 4@n2 z:b", cluster: "1 3", local: "1 2" }
    another_zone_than_all_hints_turns_them_off { endpoints: "1 z:a", zone: Some("b"), cluster: "1" }
    hints_on_unready_ones_alone_are_nothing { endpoints: "1 z:a notready, 2 z:a dead", any: false }
    where_an_endpoint_runs_is_no_hint { endpoints: "1@n1, 2@n2", zone: Some("a"), cluster: "1 2", local: "1" }
    several_zones_on_one_endpoint { endpoints: "1 z:a+b+c, 2 z:b+c, 3 z:b+d, 4 z:c", zone: Some("c"), cluster: "1 2 4" }
    one_missing_zone_hint_turns_them_off { endpoints: "1 z:a, 2 z:b, 3", cluster: "1 2 3" }
    a_missing_hint_on_an_unready_one_does_not { endpoints: "1 z:a, 2 z:b, 3 notready, 4 term", cluster: "1 | 4t" }
    no_hint_for_this_zone_turns_them_off { endpoints: "1 z:b, 2 z:c", cluster: "1 2" }
    only_unready_ones_for_this_zone_turns_them_off { endpoints: "1 z:a notready, 2 z:b, 3 z:c", cluster: "2 3" }
    only_terminating_ones_for_this_zone_turns_them_off { endpoints: "1 z:a term, 2 z:b", cluster: "2 | 1t" }
    unknown_zone_turns_them_off { endpoints: "1 z:a, 2 z:b", zone: None, cluster: "1 2" }
    empty_zone_turns_them_off { endpoints: "1 z:a, 2 z:b", zone: Some(""), cluster: "1 2" }
    fallback_ignores_zone_hints { endpoints: "1 z:a term, 2 z:b term", cluster: "1t 2t" }
    local_ignores_zone_hints { endpoints: "1@n1 z:a, 2@n1 z:b, 3@n2 z:c, 4@n2 z:a", cluster: "1 4", local: "1 2" }
    a_ready_one_that_terminates_in_another_zone_drains { endpoints: "1 z:a, 2 z:b ready-term", cluster: "1 | 2t" }

    // KEP 3015. As in kube-proxy, node hints name where traffic comes from, wherever the endpoint runs.
    node_and_zone_hints_together { endpoints: "1 z:a n:n1, 2 z:b n:n2, 3 z:c n:n3, 4 z:a n:n4", cluster: "1" }
    no_hints_on_one_turn_both_off { endpoints: "1 z:a n:n1, 2, 3 z:c n:n3, 4 z:a n:n4", cluster: "1 2 3 4" }
    hints_for_other_nodes_leave_the_zone { endpoints: "1 z:a n:n2, 2 z:b n:n3, 3 z:c n:n4, 4 z:a n:n5", cluster: "1 4" }
    an_unready_one_for_this_node_leaves_the_zone { endpoints: "1 z:a n:n1 notready, 2 z:a n:n2, 3 z:b n:n3", cluster: "2" }
    a_terminating_one_for_this_node_leaves_the_zone { endpoints: "1 z:a n:n1 term, 2 z:a n:n2, 3 z:b n:n3", cluster: "2 | 1t" }
    node_hints_without_zone_hints_leave_all { endpoints: "1 n:n2, 2 n:n3", cluster: "1 2" }
    a_missing_hint_on_an_unready_one_does_not_count { endpoints: "1 n:n1, 2 n:n2, 3 notready", cluster: "1" }
    local_ignores_node_hints { endpoints: "1@n1 n:n2, 2@n2 n:n1", cluster: "2", local: "1" }
    node_hints_choose { endpoints: "1@n1 n:n1, 2@n2 n:n2, 3@n3 n:n1+n3", cluster: "1 3", local: "1" }
    node_hints_come_before_zone_hints { endpoints: "1 n:n1 z:b, 2 n:n2 z:a", cluster: "1" }
    no_hint_for_this_node_leaves_the_zone { endpoints: "1 n:n2 z:a, 2 n:n3 z:b", cluster: "1" }
    one_missing_node_hint_leaves_the_zone { endpoints: "1 n:n1 z:b, 2 z:a", cluster: "2" }
    neither_node_nor_zone_leaves_all { endpoints: "1 n:n2 z:b, 2 n:n3 z:c", cluster: "1 2" }
    node_hints_need_no_zone { endpoints: "1 n:n1, 2 n:n2", zone: None, cluster: "1" }
    fallback_ignores_node_hints { endpoints: "1 n:n1 term, 2 n:n2 term", cluster: "1t 2t" }
}

/// A planner without a node name must not take an endpoint without a node, or a hint for nobody, for its own.
#[test]
fn nothing_is_local_without_a_name() {
    let endpoints = [endpoint("1"), endpoint("2@n1")];
    let mut nameless = endpoint("3");
    nameless.node_name = Some("".into());
    nameless.node_hints = vec!["".into()];
    let all = [&endpoints[0], &endpoints[1], &nameless];
    let candidates: Vec<_> = all.iter().map(|endpoint| Candidate { endpoint, port: 80, weight: 1 }).collect();
    let found = Categories::of(&candidates, Here::default());
    assert_eq!(text(&found, Policy::Cluster), "1 2 3");
    assert_eq!(text(&found, Policy::Local), "");
    let hinted = [Candidate { endpoint: &nameless, port: 80, weight: 1 }, candidates[1]];
    assert_eq!(text(&Categories::of(&hinted, Here::default()), Policy::Cluster), "3 2");
}
