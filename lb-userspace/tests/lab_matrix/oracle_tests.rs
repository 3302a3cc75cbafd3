//! The oracle against cases worked out by hand from the documents, and against what must hold for every cell.

use lb_lab::Network;

use crate::{
    cell::{
        Backend, Call, Cell, Client, Family, Mode, NodeId, Policy, Port, Ranges, Setup, Target, Variant, cells,
        variants,
    },
    oracle::{Expected, Source, expected},
};

const DEFAULT: Setup = Setup { network: Network::HostGw, masquerade: true, mode: Mode::Sockets };
const PACKETS: Setup = Setup { mode: Mode::Packets, ..DEFAULT };
const POD_A: Variant = Variant { backends: &[Backend::PodA], policy: Policy::Cluster, ranges: Ranges::None };
const POD_B: Variant = Variant { backends: &[Backend::PodB], ..POD_A };
const NOBODY: Variant = Variant { backends: &[], ..POD_A };

fn local(variant: Variant) -> Variant {
    Variant { policy: Policy::Local, ..variant }
}

fn cell(client: Client, target: Target, call: Call, service: Variant) -> Cell {
    Cell { client, target, port: Port::Service, call, family: Family::V4, service }
}

fn answer(backend: Backend, source: Source) -> Expected {
    Expected::Answer(vec![(backend, source)])
}

#[test]
fn from_inside() {
    use Backend::{HostB, PodA as A, PodB as B};
    use Call::{Connected, Tcp, Unconnected};
    use Client::{BackendA, HostA, HostB as ClientHostB, PodA, PodB};
    use NodeId as N;
    let of_host = Variant { backends: &[HostB], ..POD_A };
    let vxlan = Setup { network: Network::Vxlan, ..DEFAULT };
    let no_masquerade = Setup { masquerade: false, ..DEFAULT };
    for (setup, cell, wanted) in [
        // A pod keeps its address on both paths, but for itself by packet.
        (DEFAULT, cell(PodA, Target::ClusterIp, Tcp, POD_B), answer(B, Source::Own)),
        (PACKETS, cell(PodA, Target::ClusterIp, Tcp, POD_B), answer(B, Source::Own)),
        (DEFAULT, cell(BackendA, Target::ClusterIp, Tcp, POD_A), answer(A, Source::Own)),
        (DEFAULT, cell(BackendA, Target::ClusterIp, Connected, POD_A), answer(A, Source::Gateway(N::A))),
        (PACKETS, cell(BackendA, Target::LoadBalancer, Unconnected, POD_A), answer(A, Source::Gateway(N::A))),
        // The short cut: from inside, policy Local holds for the ClusterIP only.
        (DEFAULT, cell(PodB, Target::NodePort(N::B), Tcp, local(POD_A)), answer(A, Source::Own)),
        (DEFAULT, cell(PodB, Target::ExternalIp, Tcp, local(POD_A)), answer(A, Source::Own)),
        (DEFAULT, cell(PodB, Target::ClusterIp, Tcp, local(POD_A)), Expected::Refused),
        (DEFAULT, cell(PodB, Target::ClusterIp, Connected, local(POD_A)), Expected::Silence),
        (PACKETS, cell(PodB, Target::ClusterIp, Tcp, local(POD_A)), Expected::Silence),
        // Nobody anywhere: refused, whatever the policy; an unconnected UDP socket learns of no ICMP error.
        (PACKETS, cell(PodB, Target::ClusterIp, Tcp, local(NOBODY)), Expected::Refused),
        (PACKETS, cell(PodB, Target::ClusterIp, Connected, NOBODY), Expected::Refused),
        (PACKETS, cell(PodB, Target::ClusterIp, Unconnected, NOBODY), Expected::Silence),
        (DEFAULT, cell(PodB, Target::ClusterIp, Unconnected, NOBODY), Expected::Refused),
        // Another node's NodePort is reached from outside, by what flannel makes of a pod's address.
        (DEFAULT, cell(PodA, Target::NodePort(N::B), Tcp, POD_B), answer(B, Source::Lan(N::A))),
        (no_masquerade, cell(PodA, Target::NodePort(N::B), Tcp, POD_B), answer(B, Source::Own)),
        (DEFAULT, cell(PodA, Target::NodePort(N::B), Tcp, POD_A), answer(A, Source::Gateway(N::B))),
        (DEFAULT, cell(PodA, Target::NodePort(N::B), Tcp, local(POD_A)), Expected::Silence),
        (DEFAULT, cell(PodA, Target::NodePort(N::B), Tcp, local(POD_B)), answer(B, Source::Lan(N::A))),
        // Processes of a node.
        (DEFAULT, cell(HostA, Target::ClusterIp, Connected, POD_A), answer(A, Source::Gateway(N::A))),
        (DEFAULT, cell(HostA, Target::Loopback, Tcp, POD_B), answer(B, Source::Lan(N::A))),
        (vxlan, cell(HostA, Target::Loopback, Tcp, POD_B), answer(B, Source::Overlay(N::A))),
        (DEFAULT, cell(PodA, Target::Loopback, Tcp, POD_B), Expected::Refused),
        (DEFAULT, cell(ClientHostB, Target::NodePort(N::C), Tcp, POD_B), answer(B, Source::Gateway(N::C))),
        (DEFAULT, cell(PodA, Target::ClusterIp, Tcp, of_host), answer(HostB, Source::Lan(N::A))),
        (no_masquerade, cell(PodA, Target::ClusterIp, Tcp, of_host), answer(HostB, Source::Own)),
    ] {
        assert_eq!(expected(setup, &cell), wanted, "{setup:?} {cell}");
    }
}

#[test]
fn from_outside() {
    use Backend::{HostA, HostB, PodA as A, PodB as B};
    use Call::{Connected, Tcp, Unconnected};
    use NodeId as N;
    let ask = |target, call, service| expected(DEFAULT, &cell(Client::Outside, target, call, service));
    assert_eq!(ask(Target::ClusterIp, Tcp, POD_A), Expected::Silence, "closed");
    assert_eq!(ask(Target::ClusterIp, Tcp, NOBODY), Expected::Silence, "closed, whoever is there");
    assert_eq!(ask(Target::ExternalIp, Tcp, POD_A), answer(A, Source::Own));
    assert_eq!(ask(Target::ExternalIp, Tcp, POD_B), answer(B, Source::Gateway(N::A)));
    assert_eq!(ask(Target::NodePort(N::B), Tcp, POD_B), answer(B, Source::Own));
    assert_eq!(ask(Target::NodePort(N::C), Unconnected, local(POD_B)), Expected::Silence);
    assert_eq!(ask(Target::NodePort(N::C), Unconnected, POD_B), answer(B, Source::Gateway(N::C)));
    assert_eq!(ask(Target::NodePort(N::C), Connected, local(NOBODY)), Expected::Refused);
    let of_hosts = Variant { backends: &[HostA, HostB], ..POD_A };
    let wanted = Expected::Answer(vec![(HostA, Source::Own), (HostB, Source::Lan(N::A))]);
    assert_eq!(ask(Target::LoadBalancer, Tcp, of_hosts), wanted);
    assert_eq!(ask(Target::LoadBalancer, Tcp, local(of_hosts)), answer(HostA, Source::Own));
}

#[test]
fn source_ranges() {
    use Call::Tcp;
    use Client::{HostA, Outside, PodA};
    let nodes = Variant { ranges: Ranges::Nodes, ..POD_A };
    let others = Variant { ranges: Ranges::PodsAndOutside, ..POD_A };
    let ask = |client, target, service| expected(DEFAULT, &cell(client, target, Tcp, service));
    // Pods are held to them at LoadBalancer addresses, on the packet path, so without an answer.
    assert_eq!(ask(PodA, Target::LoadBalancer, nodes), Expected::Silence);
    assert_eq!(ask(PodA, Target::LoadBalancer, others), answer(Backend::PodA, Source::Own));
    assert_eq!(ask(PodA, Target::ExternalIp, nodes), answer(Backend::PodA, Source::Own));
    assert_eq!(ask(HostA, Target::LoadBalancer, nodes), answer(Backend::PodA, Source::Gateway(NodeId::A)));
    assert_eq!(ask(HostA, Target::LoadBalancer, others), Expected::Refused);
    assert_eq!(ask(Outside, Target::LoadBalancer, nodes), Expected::Silence);
    assert_eq!(ask(Outside, Target::ExternalIp, nodes), Expected::Silence);
    assert_eq!(ask(Outside, Target::NodePort(NodeId::A), nodes), answer(Backend::PodA, Source::Own));
    assert_eq!(ask(Outside, Target::ExternalIp, others), answer(Backend::PodA, Source::Own));
}

#[test]
fn ports_that_nobody_claims() {
    let unused =
        |client, target, call| expected(DEFAULT, &Cell { port: Port::Unused, ..cell(client, target, call, POD_A) });
    assert_eq!(unused(Client::Outside, Target::NodePort(NodeId::A), Call::Tcp), Expected::Refused);
    assert!(matches!(unused(Client::Outside, Target::ExternalIp, Call::Tcp), Expected::OutOfReach(_)));
    assert_eq!(unused(Client::Outside, Target::ClusterIp, Call::Tcp), Expected::Silence);
    assert_eq!(unused(Client::PodA, Target::ClusterIp, Call::Connected), Expected::Refused);
    assert_eq!(unused(Client::HostA, Target::Loopback, Call::Tcp), Expected::Refused);
}

/// What holds whatever the rest of the cell is.
#[test]
fn every_cell() {
    for setup in [DEFAULT, PACKETS] {
        for cell in cells() {
            let wanted = expected(setup, &cell);
            if let Expected::Answer(backends) = &wanted {
                assert!(!backends.is_empty(), "{cell}");
                assert!(backends.iter().all(|(backend, _)| cell.service.backends.contains(backend)), "{cell}");
                assert_eq!(cell.port, Port::Service, "{cell}");
                let kept = |(backend, source): &(Backend, Source)| {
                    cell.client != Client::Outside || backend.node() != NodeId::A || *source == Source::Own
                };
                let at_a = cell.target != Target::NodePort(NodeId::B) && cell.target != Target::NodePort(NodeId::C);
                assert!(!at_a || backends.iter().all(kept), "a local backend sees the real client: {cell}");
            }
            if cell.service.policy == Policy::Local && cell.client == Client::Outside {
                let real =
                    |backends: &Vec<(Backend, Source)>| backends.iter().all(|(_, source)| *source == Source::Own);
                assert!(!matches!(&wanted, Expected::Answer(backends) if !real(backends)), "{cell}");
            }
            if matches!(wanted, Expected::OutOfReach(_)) {
                let no_path = setup.mode == Mode::Packets && matches!(cell.client, Client::HostA | Client::HostB);
                assert!(no_path || cell.port == Port::Unused, "{cell}");
            }
        }
    }
}

#[test]
fn the_matrix_is_whole() {
    let cells = cells();
    let services = variants().len();
    assert_eq!(services, 16);
    // Clients, targets, families, and for each: four calls to each Service, three to an unused port.
    assert_eq!(cells.len(), 6 * 7 * 2 * (4 * services + 3));
}
