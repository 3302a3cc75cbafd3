//! One packet, what the tables hold before it, and what must come of it. The host runs it over [`MemTables`], the
//! kernel through the loaded programs: the same case, the same check.

use std::collections::BTreeMap;

use zerocopy::IntoBytes as _;

use super::hook::{Action, Hook, test_run_answers, test_run_is_foreign, test_run_takes};
use super::{AffinitySpec, DEV_CLIENT, FlowSpec, L4Sum, MemTables, PacketSpec, Told, World, answer, describe, dissect};
use crate::{
    abi::{AffinityEntry, AffinityKey, BackendCounter, Counter, Flow, Port, Traffic, Tuple, proto, role},
    datapath::{FlowTable, Scratch, Verdict},
};

/// What came of a packet.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The core's own verdict, which only the host sees.
    pub verdict: Option<Verdict>,
    /// The action.
    pub action: Action,
    /// The packet after.
    pub packet: Vec<u8>,
    /// Counters by index.
    pub counters: Vec<u64>,
    /// What was counted by backend id, nothing left out.
    pub backends: BTreeMap<u32, BackendCounter>,
    /// Flow entries after.
    pub flows: Vec<(FlowTable, Tuple, Flow)>,
    /// Affinity entries after.
    pub affinity: Vec<(AffinityKey, AffinityEntry)>,
}

/// One packet case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// Where the packet is met.
    pub hook: Hook,
    /// The tables before.
    pub world: World,
    /// The packet.
    pub packet: PacketSpec,
    /// What must become of it.
    pub verdict: Verdict,
    /// The packet after; `None`: unchanged.
    pub out: Option<PacketSpec>,
    /// The packet is dropped, and its sender told this in the same frame.
    pub told: Option<Told>,
    /// Counters that go up, by one each; the reason of a drop is not listed.
    pub counters: Vec<Counter>,
    /// The backend whose connections go up by one.
    pub connection: Option<u32>,
    /// Flow entries after; `None`: as before.
    pub flows: Option<Vec<FlowSpec>>,
    /// Affinity entries after; `None`: as before.
    pub affinity: Option<Vec<AffinitySpec>>,
    /// As many packets as may be were answered in this tick.
    pub silenced: bool,
    /// Bytes of payload in each packet that this one stands for; 0: just itself.
    pub gso_size: u32,
    /// Port 0 in `out` and `flows` stands for any port that the core takes in place of one that is not free.
    pub any_port: bool,
}

/// Source ports that the core takes in place of one that is not free.
const OTHER_PORTS: core::ops::RangeInclusive<u16> = 0x8000..=0xffff;

impl Case {
    /// A packet that passes and changes nothing.
    #[must_use]
    pub fn new(name: impl Into<String>, hook: Hook, world: World, packet: PacketSpec) -> Self {
        Self {
            name: name.into(),
            hook,
            world,
            packet,
            verdict: Verdict::Pass,
            out: None,
            told: None,
            counters: Vec::new(),
            connection: None,
            flows: None,
            affinity: None,
            silenced: false,
            gso_size: 0,
            any_port: false,
        }
    }

    /// From the client's pod.
    #[must_use]
    pub fn ingress(name: impl Into<String>, world: World, packet: PacketSpec) -> Self {
        Self::new(name, Hook::PodIngress(DEV_CLIENT), world, packet)
    }

    /// With this verdict.
    #[must_use]
    pub const fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = verdict;
        self
    }

    /// With this packet after.
    #[must_use]
    pub fn out(mut self, out: PacketSpec) -> Self {
        self.out = Some(out);
        self
    }

    /// Dropped for this reason.
    #[must_use]
    pub const fn dropped(self, reason: Counter) -> Self {
        self.verdict(Verdict::Drop(reason))
    }

    /// Dropped for this reason, and its sender told so.
    #[must_use]
    pub fn answered(mut self, reason: Counter, told: Told) -> Self {
        self.told = Some(told);
        self.verdict(Verdict::Bounce).counts(reason).counts(Counter::Answered)
    }

    /// As [`Self::answered`]: nobody listens there.
    #[must_use]
    pub fn refused(self, reason: Counter) -> Self {
        self.answered(reason, Told::Refused)
    }

    /// With this counter up.
    #[must_use]
    pub fn counts(mut self, counter: Counter) -> Self {
        self.counters.push(counter);
        self
    }

    /// With exactly these flow entries after.
    #[must_use]
    pub fn flows(mut self, flows: &[FlowSpec]) -> Self {
        self.flows = Some(flows.to_vec());
        self
    }

    /// With exactly these affinity entries after.
    #[must_use]
    pub fn affinity(mut self, entries: &[AffinitySpec]) -> Self {
        self.affinity = Some(entries.to_vec());
        self
    }

    /// A new flow of this backend, counted; the packet leaves as the forward entry says.
    #[must_use]
    pub fn opens(mut self, flow: &[FlowSpec; 2]) -> Self {
        self.connection = Some(flow[0].backend);
        self.counts(Counter::PacketFlows).flows(flow).follows(&flow[0])
    }

    /// The packet leaves translated, in the way that this entry says.
    #[must_use]
    pub fn follows(mut self, flow: &FlowSpec) -> Self {
        let routed = flow.role & role::ROUTED != 0;
        self.out = Some(self.packet.clone().with(|p| {
            p.tuple = flow.to;
            p.ttl -= u8::from(routed);
        }));
        self.verdict(match flow.oif {
            _ if flow.role & role::HAIRPIN != 0 => Verdict::Bounce,
            0 => Verdict::Stack,
            oif => Verdict::Redirect(oif),
        })
    }

    /// The packet leaves as it came for the node of the backend of this entry, which it names if it opens.
    #[must_use]
    pub fn handed_over(mut self, flow: &FlowSpec) -> Self {
        let opens = self.packet.tuple.proto != proto::TCP || self.packet.tcp_flags & 0x12 == 0x02;
        self.out = Some(self.packet.clone().with(|p| {
            p.ttl -= 1;
            if opens {
                p.name_backend(flow.to.dst, flow.to.dport.get());
            }
        }));
        self.verdict(Verdict::HandOver(flow.oif))
    }

    /// Changed by hand.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Whether a test run in the kernel can show it: an skb made there has no partial checksum, and stands for itself
    /// only.
    #[must_use]
    pub fn runs_in_kernel(&self) -> bool {
        let bytes = self.packet.build();
        self.packet.l4_sum != L4Sum::Partial
            && self.gso_size == 0
            && !self.packet.redirected
            && test_run_takes(&bytes)
            && !test_run_is_foreign(&bytes, self.hook)
            && (self.told.is_none() || test_run_answers(self.hook))
    }

    /// Runs it over tables in memory.
    ///
    /// # Errors
    /// What differs from what must be.
    pub fn run(&self) -> Result<(), String> {
        self.run_after(&mut Scratch::default())
    }

    /// As [`Self::run`], in the working memory that an earlier packet left.
    ///
    /// # Errors
    /// What differs from what must be.
    pub fn run_after(&self, scratch: &mut Scratch) -> Result<(), String> {
        let now = 1_000_000;
        let tables = MemTables::with(&self.world.contents(now));
        tables.set_may_answer(!self.silenced);
        let mut packet = self.packet.packet();
        packet.gso_size = self.gso_size;
        let verdict = self.hook.run_after(&mut packet, &tables, scratch);
        let observed = Observed {
            verdict: Some(verdict),
            action: verdict.into(),
            packet: packet.bytes,
            counters: tables.counters(),
            backends: tables.backend_counters(),
            flows: tables.flow_entries(),
            affinity: tables.affinity_entries(),
        };
        self.check(&observed, now, now)
    }

    /// Compares what came of the packet, which was met between `now` and `later` with tables filled for `now`.
    ///
    /// # Errors
    /// What differs from what must be.
    pub fn check(&self, observed: &Observed, now: u32, later: u32) -> Result<(), String> {
        let mut wrong = Vec::new();
        if observed.verdict.is_some_and(|verdict| verdict != self.verdict) {
            wrong.push(format!("verdict {:?}, not {:?}", observed.verdict, self.verdict));
        }
        let action = Action::from(self.verdict);
        if observed.action != action {
            wrong.push(format!("action {:?}, not {action:?}", observed.action));
        }
        let port = if self.any_port { self.port_taken(observed, &mut wrong) } else { Port::new(0) };
        self.check_packet(observed, port, &mut wrong);
        self.check_counters(observed, &mut wrong);
        self.check_flows(observed, port, now..=later, &mut wrong);
        self.check_affinity(observed, now..=later, &mut wrong);
        if wrong.is_empty() { Ok(()) } else { Err(format!("case `{}`:\n  {}", self.name, wrong.join("\n  "))) }
    }

    fn port_taken(&self, observed: &Observed, wrong: &mut Vec<String>) -> Port {
        match dissect(&observed.packet, self.hook.l2_len()) {
            Ok(packet) if OTHER_PORTS.contains(&packet.tuple.sport.get()) => packet.tuple.sport,
            Ok(packet) => {
                wrong.push(format!("source port {:?} is not of {OTHER_PORTS:?}", packet.tuple.sport));
                packet.tuple.sport
            }
            Err(error) => {
                wrong.push(error);
                Port::new(0)
            }
        }
    }

    fn check_packet(&self, observed: &Observed, port: Port, wrong: &mut Vec<String>) {
        let mut wanted = self.out.clone().unwrap_or_else(|| self.packet.clone());
        if wanted.tuple.sport == Port::new(0) {
            wanted.tuple.sport = port;
        }
        wanted.bounced |= self.verdict == Verdict::Bounce;
        let wanted = match self.told {
            Some(told) => answer(&self.packet, told, self.hook),
            None => wanted.build(),
        };
        if observed.packet != wanted {
            let l2_len = self.hook.l2_len();
            wrong.push(format!(
                "packet\n    {}\n  not\n    {}",
                describe(&observed.packet, l2_len),
                describe(&wanted, l2_len)
            ));
        }
    }

    fn check_counters(&self, observed: &Observed, wrong: &mut Vec<String>) {
        let mut counters = vec![0; Counter::ALL.len()];
        self.counters.iter().for_each(|counter| counters[*counter as usize] += 1);
        if let Verdict::Drop(reason) = self.verdict {
            counters[reason as usize] += 1;
        }
        for (counter, (found, wanted)) in Counter::ALL.iter().zip(observed.counters.iter().zip(&counters)) {
            if found != wanted {
                wrong.push(format!("counter {} went up by {found}, not {wanted}", counter.name()));
            }
        }
        match self.backends() {
            Ok(wanted) if wanted == observed.backends => {}
            Ok(wanted) => wrong.push(format!("counted by backend {:?}, not {wanted:?}", observed.backends)),
            Err(contradiction) => wrong.push(contradiction),
        }
    }

    /// What must be counted by backend id: the connection, and the packet as it came, if it goes on by an entry that a
    /// Service's flow has before or after.
    fn backends(&self) -> Result<BTreeMap<u32, BackendCounter>, String> {
        let mut counters: BTreeMap<u32, BackendCounter> = BTreeMap::new();
        if let Some(id) = self.connection {
            let Some((_, backend)) = self.world.backends.iter().find(|(found, _)| *found == id) else {
                return Err(format!("the world has no backend {id} to count a connection to"));
            };
            let counter = counters.entry(id).or_default();
            (counter.generation, counter.connections) = (backend.generation, 1);
        }
        let goes_on = !matches!(self.verdict, Verdict::Pass | Verdict::Drop(_)) && self.told.is_none();
        if goes_on && !self.counters.contains(&Counter::IcmpErrors) {
            let Some(entry) = self.entry() else { return Err("no entry by which the packet goes on".into()) };
            if entry.role & role::HOST == 0 {
                let counter = counters.entry(entry.backend).or_default();
                counter.generation = entry.generation;
                let traffic = if entry.role & role::FORWARD != 0 { &mut counter.to } else { &mut counter.from };
                let bytes = self.packet.build().len() - self.hook.l2_len();
                *traffic = Traffic { packets: 1, bytes: bytes as u64 };
            }
        }
        Ok(counters)
    }

    /// The entry that is the packet's afterwards.
    fn entry(&self) -> Option<&FlowSpec> {
        let later = self.packet.fragment.is_some_and(|fragment| fragment.offset != 0);
        let all = self.flows.as_ref().unwrap_or(&self.world.flows);
        all.iter().find(|entry| {
            if later {
                let Tuple { src, dst, proto, .. } = self.packet.tuple;
                entry.table == FlowTable::Frags && (entry.key.src, entry.key.dst, entry.key.proto) == (src, dst, proto)
            } else {
                entry.table != FlowTable::Frags && entry.key == self.packet.tuple
            }
        })
    }

    fn check_flows(
        &self,
        observed: &Observed,
        port: Port,
        when: core::ops::RangeInclusive<u32>,
        wrong: &mut Vec<String>,
    ) {
        let wanted = self.flows.as_ref().unwrap_or(&self.world.flows);
        let mut missing: Vec<FlowSpec> = wanted.iter().map(|flow| flow.with_port(port)).collect();
        for (table, key, found) in &observed.flows {
            let same = |spec: &FlowSpec| {
                when.clone().any(|now| (spec.table, spec.key, spec.flow(now)) == (*table, *key, *found))
            };
            match missing.iter().position(same) {
                Some(at) => drop(missing.remove(at)),
                None => wrong.push(format!("flow entry in {table:?}: {}", show(key, found))),
            }
        }
        let now = *when.start();
        wrong.extend(
            missing
                .iter()
                .map(|spec| format!("no flow entry in {:?}: {}", spec.table, show(&spec.key, &spec.flow(now)))),
        );
    }

    fn check_affinity(&self, observed: &Observed, when: core::ops::RangeInclusive<u32>, wrong: &mut Vec<String>) {
        let wanted = self.affinity.as_ref().unwrap_or(&self.world.affinity);
        let mut missing = wanted.clone();
        for entry in &observed.affinity {
            match missing.iter().position(|spec| when.clone().any(|now| spec.entry(now) == *entry)) {
                Some(at) => drop(missing.remove(at)),
                None => wrong.push(format!("affinity entry {:?} ({:02x?})", entry, entry.1.as_bytes())),
            }
        }
        wrong.extend(missing.iter().map(|entry| format!("no affinity entry {entry:?}")));
    }
}

fn show(key: &Tuple, flow: &Flow) -> String {
    let line = |t: &Tuple| format!("{:?} port {:?} > {:?} port {:?}", t.src, t.sport, t.dst, t.dport);
    let Flow {
        service,
        identity,
        backend,
        backend_generation,
        oif,
        mate_oif,
        mtu,
        mate_mtu,
        role,
        state,
        seen,
        check,
        ..
    } = *flow;
    format!(
        "protocol {} {} becomes {}; service {service} ({identity:x}), backend {backend} ({backend_generation}), oif {oif} \
         ({mate_oif}), MTU {mtu} ({mate_mtu}), role {role}, state {state}, seen {seen}, check {check:x}",
        key.proto,
        line(key),
        line(&flow.to)
    )
}
