//! Which part of the machine a moment belongs to, by the functions that were running. Pure.

/// Rules for functions of the kernel: a part, and how their names begin after leading underscores. The innermost function that has a
/// rule decides, so helpers that everybody calls (copying, locks, memory) count for who called them.
const RULES: &[(&str, &str)] = &[
    ("cgroup hooks", "cgroup_bpf_run_filter bpf_prog_run_array"),
    (
        "redirect, neighbour",
        "skb_do_redirect bpf_redirect bpf_tx_skb neigh_ xdp_do_ generic_xdp bpf_prog_run_generic_xdp",
    ),
    ("tc entry (but what is inlined into links and queues)", "tc_run tcf_classify cls_bpf tcx_ sch_handle"),
    ("netfilter", "nf_ nft_ ipt_ xt_ iptable conntrack ipv4_conntrack ipv6_conntrack nfnl br_nf_"),
    ("bridge", "br_ fdb_"),
    (
        "routes",
        "fib_ fib6_ ip_route_ ip6_route_ ip6_pol_route rt_ ip6_rt ipv4_dst_check ip6_dst_check \
         find_exception dst_ xfrm_",
    ),
    (
        "packets' memory",
        "alloc_skb build_skb skb_clone kfree_skb consume_skb skb_release skb_defer_free \
         skb_attempt_defer pskb_expand_head napi_consume_skb napi_alloc",
    ),
    (
        "links and queues",
        "dev_ veth_ validate_xmit netif_ process_backlog enqueue_to_backlog net_rx_action \
         handle_softirqs do_softirq local_bh_enable napi_ eth_ netdev_ skb_scrub_packet \
         is_skb_forwardable skb_network_protocol skb_csum_hwoffload passthru_features",
    ),
    ("IP", "ip_ ip6_ ipv6_ raw_local_deliver raw6_local_deliver icmp arp_"),
    (
        "sockets, system calls",
        "tcp udp inet sock sk_ sys_ x64_sys_ arm64_sys_ do_syscall do_el0_svc release_sock lock_sock \
         unix_ bbr_ bictcp cubictcp security_ rcu_ fput syscall_",
    ),
];

/// Rules for what programs call, by how the name of the function begins that the program itself called.
const HELPERS: &[(&str, &str)] = &[
    (
        "helpers: map update, delete",
        "htab_map_update htab_map_delete htab_lru_map_update htab_lru_map_delete bpf_map_update \
         bpf_map_delete",
    ),
    ("helpers: map look-up", "htab_ lookup_nulls_elem lookup_elem memcmp trie_ array_map percpu_array bpf_map_lookup"),
    ("helpers: route", "bpf_skb_fib_lookup bpf_xdp_fib_lookup"),
    ("helpers: socket", "bpf_sk_ bpf_skc_ bpf_tc_sk bpf_xdp_sk"),
    ("helpers: packet", "bpf_skb bpf_l4 bpf_l3 bpf_csum bpf_clone bpf_set_hash bpf_redirect bpf_xdp sk_skb tc_"),
];

/// A function that was running, or whose callee was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frame<'a> {
    pub(super) address: u64,
    pub(super) function: &'a str,
}

/// The part that a moment belongs to, by its functions from the innermost outwards.
///
/// A program counts under its own name, with the functions that it consists of; what it calls of the kernel counts for the
/// helper. An interrupt that came in between counts for nobody's part.
pub(super) fn part(stack: &[Frame<'_>]) -> String {
    let kernel = stack.iter().take_while(|frame| frame.address >> 63 == 1).map(|frame| frame.function);
    let kernel: Vec<&str> = kernel.collect();
    if kernel.is_empty() {
        return "programs outside the kernel".to_owned();
    }
    if kernel.iter().any(|function| is_interrupt(function)) {
        return "interrupts".to_owned();
    }
    match kernel.iter().position(|function| program(function).is_some()) {
        Some(0) => {
            let whole = kernel.iter().map_while(|function| program(function)).last();
            format!("program {}", whole.unwrap_or_default())
        }
        Some(at) => find(HELPERS, kernel[at - 1]).unwrap_or("helpers: others").to_owned(),
        None => {
            let part = kernel.iter().find_map(|function| find(RULES, function));
            part.unwrap_or("what no rule names").to_owned()
        }
    }
}

fn is_interrupt(function: &str) -> bool {
    ["asm_sysvec_", "asm_common_interrupt", "el1h_64_irq", "el0t_64_irq"].iter().any(|name| function.starts_with(name))
}

/// A BPF program's name, or that of a function of it. The kernel names its code `bpf_prog_`, 16 digits, `_` and the name.
fn program(function: &str) -> Option<&str> {
    let (tag, name) = function.strip_prefix("bpf_prog_")?.split_at_checked(16)?;
    tag.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(name.strip_prefix('_')?)
}

fn find(rules: &[(&'static str, &str)], function: &str) -> Option<&'static str> {
    let bare = function.trim_start_matches('_');
    rules.iter().find(|(_, names)| names.split_whitespace().any(|name| bare.starts_with(name))).map(|(part, _)| *part)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: u64 = 0xffff_ffff_8100_0000;

    fn of(functions: &[&str]) -> String {
        part(&functions.iter().map(|function| Frame { address: KERNEL, function }).collect::<Vec<_>>())
    }

    #[test]
    fn the_innermost_function_with_a_rule_decides() {
        let sending = ["__dev_queue_xmit", "ip_finish_output2", "tcp_sendmsg", "do_syscall_64"];
        let with = |inner: &[&'static str]| of(&[inner, &sending].concat());
        assert_eq!(with(&[]), "links and queues");
        assert_eq!(with(&["__pi_memcpy", "tcp_v4_rcv", "ip_protocol_deliver_rcu"]), "sockets, system calls");
        assert_eq!(with(&["_raw_spin_lock", "br_handle_frame"]), "bridge");
        assert_eq!(with(&["nft_do_chain", "br_nf_pre_routing", "br_handle_frame"]), "netfilter");
        assert_eq!(with(&["br_nf_pre_routing", "br_handle_frame"]), "netfilter");
        assert_eq!(with(&["kmem_cache_free", "kfree_skb_reason", "ip_rcv"]), "packets' memory");
        assert_eq!(of(&["memset", "something_new"]), "what no rule names");
    }

    #[test]
    fn a_program_counts_under_its_name_and_what_it_calls_for_the_helper() {
        let core = ["__netif_receive_skb_core.constprop.0", "process_backlog"];
        let inner = "bpf_prog_80acb52314ad5055_begin_3C_berrylb_ebpf";
        let outer = "bpf_prog_af782fdc1dcd81d9_pod_ingress";
        let with = |functions: &[&'static str]| of(&[functions, &core].concat());
        assert_eq!(with(&[inner, outer]), "program pod_ingress");
        assert_eq!(with(&[outer]), "program pod_ingress");
        assert_eq!(with(&["memcmp", "lookup_nulls_elem_raw", "__htab_map_lookup_elem", outer]), "helpers: map look-up");
        let update = ["lookup_nulls_elem_raw", "htab_lru_map_update_elem", inner, outer];
        assert_eq!(with(&update), "helpers: map update, delete");
        // One that the look-up ends with a jump to stands there in its place.
        assert_eq!(with(&["lookup_nulls_elem_raw", outer]), "helpers: map look-up");
        assert_eq!(with(&["fib_table_lookup", "bpf_ipv4_fib_lookup", "bpf_skb_fib_lookup", inner]), "helpers: route");
        assert_eq!(with(&["kmalloc", "pskb_expand_head", "bpf_skb_store_bytes", outer]), "helpers: packet");
        assert_eq!(with(&["something_new", outer]), "helpers: others");
        // The kernel's own functions of such names are no programs.
        assert_eq!(program("bpf_prog_run_array_cg"), None);
    }

    #[test]
    fn programs_and_interrupts_are_told_apart() {
        let user = Frame { address: 0x7f00_1000, function: "__libc_send" };
        assert_eq!(part(&[user]), "programs outside the kernel");
        let kernel = Frame { address: KERNEL, function: "__x64_sys_sendto" };
        assert_eq!(part(&[kernel, user]), "sockets, system calls");
        assert_eq!(of(&["rcu_core", "asm_sysvec_apic_timer_interrupt", "tcp_sendmsg"]), "interrupts");
        assert_eq!(part(&[]), "programs outside the kernel");
    }
}
