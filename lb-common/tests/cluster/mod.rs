//! The cluster of the conversation tests: clients, services and backends around the datapath's hooks, and the truth.

mod life;
mod place;

use std::{collections::HashMap, fmt::Write as _};

use lb_common::{
    abi::{Counter, Port, Tuple, local_path, proto},
    datapath::{Scratch, Tables as _, Verdict},
    testing::{
        Contents, Dissected, Hook, L4Sum, MemTables, Net, PacketSpec, Recycling, Sum, VecPacket, World, check_answer,
        dissect, route,
    },
};
use life::Conversation;
pub(crate) use life::{Done, Flags, Op, Target};
use place::{HOST, NODE_CLIENT};

pub(crate) struct Cluster {
    net: Net,
    tables: MemTables,
    now: u32,
    /// Backends of each service as a set of pods, and whether its frontend is there.
    services: [(u8, bool); 3],
    generations: HashMap<u32, u32>,
    conversations: Vec<Conversation>,
    /// What each backend saw: its view of the packet, and the conversation.
    views: Vec<(Tuple, usize)>,
    /// Working memory, as the programs of a processor share it.
    scratch: Scratch,
    /// What became of the last packet.
    last: Verdict,
    done: Done,
    story: String,
}

const PORT: u16 = 80;

impl Cluster {
    pub(crate) fn new(v4: bool, seed: u64) -> Self {
        let net = if v4 { Net::V4 } else { Net::V6 };
        let mut world = World::tcp(net);
        world.services.clear();
        world.backends.clear();
        let tables = MemTables::with(&world.contents(1_000_000));
        tables.seed(seed);
        let mut cluster = Self {
            net,
            tables,
            now: 1_000_000,
            services: [(0, true); 3],
            generations: HashMap::new(),
            conversations: Vec::new(),
            views: Vec::new(),
            scratch: Scratch::default(),
            last: Verdict::Pass,
            done: Done::default(),
            story: String::new(),
        };
        // One pod is in two services, so that clients meet it in two ways.
        for (service, backends) in [(0, 0b010_0011), (1, 0b011_0001), (2, 0b110_1101)] {
            cluster.set_backends(service, backends);
            cluster.set_frontend(service, true);
        }
        cluster
    }

    /// Look-ups meet recycled elements from now on.
    pub(crate) fn recycle(&self, rule: Recycling) {
        self.tables.recycle(Some(rule));
    }

    pub(crate) const fn done(&self) -> Done {
        self.done
    }

    pub(crate) fn story(&self) -> &str {
        &self.story
    }

    pub(crate) fn step(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::Send { client, port, to, tcp, flags } => {
                self.send(client, Port::new(40_000 + u16::from(port)), to, tcp, flags)
            }
            Op::Reply { which, flags } if !self.views.is_empty() => {
                self.reply(usize::from(which) % self.views.len(), flags)
            }
            Op::Reply { .. } => Ok(()),
            Op::Backends { service, backends } => {
                self.tell(format!("service {service} has backends {backends:07b}"));
                self.set_backends(service, backends);
                Ok(())
            }
            Op::Frontend { service, there } => {
                self.tell(format!("service {service} is there: {there}"));
                self.set_frontend(service, there);
                Ok(())
            }
            Op::LocalPath { redirect } => {
                let local_path = if redirect { local_path::REDIRECT } else { local_path::STACK };
                let mut contents = empty();
                contents.config.local_path = local_path;
                // The agent never writes them.
                contents.marks = self.tables.marks();
                self.tables.fill(&contents);
                Ok(())
            }
            Op::Wait { ticks } => {
                self.tell(format!("{ticks} ticks pass"));
                self.now += ticks;
                self.tables.set_now(self.now);
                Ok(())
            }
        }
    }

    fn tell(&mut self, text: String) {
        // Writing to a String cannot fail.
        let _infallible = writeln!(self.story, "  {text}");
    }

    fn send(&mut self, client: u8, port: Port, to: Target, tcp: bool, flags: Flags) -> Result<(), String> {
        let proto = if tcp { proto::TCP } else { proto::UDP };
        if !self.may_speak(client, to) {
            return Ok(());
        }
        if self.conversations.iter().any(|c| {
            (c.client, c.port, c.to, c.proto, c.over, c.closing) == (client, port, to, proto::TCP, false, true)
                && flags != Flags::Syn
                && tcp
                && !c.lives(self.now)
        }) {
            // Closed a minute ago: the client's stack has nothing more to say.
            return Ok(());
        }
        let number = self.conversation(client, port, to, proto, flags);
        let conversation = &self.conversations[number];
        let begun = conversation.seen.is_some() || (conversation.over && conversation.service().is_some());
        if tcp && flags != Flags::Syn && !begun {
            // Its SYN reached nobody, or there was none: the client has nothing to go on with.
            return Ok(());
        }
        let (addr, dport) = self.target(to);
        let tuple = Tuple::new(self.client(client), port, addr, dport, proto);
        self.tell(format!("{number}: {flags:?} {tuple:?}"));
        let Some(delivered) = self.travel(tuple, number, flags)? else {
            let verdict = self.last;
            self.may_be_dropped(number, verdict)?;
            self.conversations[number].seen = None;
            return Ok(());
        };
        self.check_forward(number, &delivered.tuple, flags)?;
        self.see(number, delivered.tuple)
    }

    /// Whether such packets come by this node at all.
    const fn may_speak(&self, client: u8, to: Target) -> bool {
        match (client, to) {
            // Sockets of the node are translated at connect.
            (NODE_CLIENT, Target::Service(_) | Target::NodePort(_)) => false,
            (NODE_CLIENT, Target::Pod(pod)) => matches!(pod, 3 | 5 | 6),
            // A pod reaches its own address without leaving itself.
            (0 | 1, Target::Pod(pod)) => client != pod,
            // Another node's are reached without us.
            (_, Target::Pod(pod)) => matches!(pod, 0 | 1 | 2 | HOST),
            (_, Target::Service(_) | Target::NodePort(_)) => true,
        }
    }

    /// A packet's whole way through the node; what arrives, unless it was dropped for the reason in `last`.
    fn travel(&mut self, tuple: Tuple, number: usize, flags: Flags) -> Result<Option<Dissected>, String> {
        let mut bytes = packet(tuple, number, flags);
        self.last = Verdict::Pass;
        if let Some(hook) = self.way_in(tuple.src) {
            let (verdict, after) = self.meet(hook, bytes)?;
            self.last = verdict;
            self.count(verdict);
            let Some(after) = after else { return Ok(None) };
            bytes = after;
        }
        // What was sent on past the stack is left alone where it leaves.
        if matches!(self.last, Verdict::Pass | Verdict::Stack)
            && let Some(hook) = self.way_out(read(&bytes)?.tuple.dst)
        {
            let (verdict, after) = self.meet(hook, bytes)?;
            self.count(verdict);
            let Some(after) = after else {
                self.last = verdict;
                return Ok(None);
            };
            bytes = after;
        }
        read(&bytes).map(Some)
    }

    /// The conversation that a packet belongs to: TCP begins with a SYN, UDP with any packet.
    fn conversation(&mut self, client: u8, port: Port, to: Target, proto: u8, flags: Flags) -> usize {
        let same = |c: &Conversation| (c.client, c.port, c.to, c.proto) == (client, port, to, proto);
        let known = self.conversations.iter().rposition(|c| same(c) && !c.over);
        let opens = proto == proto::TCP && flags == Flags::Syn;
        let number = match known {
            Some(number) if !opens => number,
            Some(_) | None => {
                self.conversations.iter_mut().filter(|c| same(c)).for_each(|c| c.over = true);
                // Before a SYN, TCP is nobody's: what it may not do is checked, and that is all.
                let over = proto == proto::TCP && !opens;
                let new = Conversation { client, port, to, proto, seen: None, over, closing: false, last: self.now };
                self.conversations.push(new);
                self.conversations.len() - 1
            }
        };
        let now = self.now;
        let conversation = &mut self.conversations[number];
        if !conversation.lives(now) {
            // UDP that was silent for long begins anew.
            conversation.seen = None;
        }
        conversation.last = now;
        conversation.closing |= matches!(flags, Flags::Fin | Flags::Rst) && proto == proto::TCP;
        number
    }

    /// Runs one hook; gives the packet unless it was dropped. One that was answered counts as dropped: the answer must
    /// reach its sender.
    fn meet(&mut self, hook: Hook, bytes: Vec<u8>) -> Result<(Verdict, Option<Vec<u8>>), String> {
        let before = self.tables.counters();
        let mut packet = VecPacket::new(bytes.clone(), route);
        let mut verdict = hook.run_after(&mut packet, &self.tables, &mut self.scratch);
        let up = |counter: Counter| self.tables.counter(counter) - before[counter as usize];
        let (replaced, answered) = (up(Counter::FlowReplaced), up(Counter::Answered));
        let remapped = up(Counter::HostRemapped);
        if answered != 0 {
            check_answer(&bytes, &packet.bytes, hook.l2_len())?;
            let reasons: Vec<Counter> = Counter::ALL
                .iter()
                .copied()
                .filter(|counter| counter.name().starts_with("drop_") && up(*counter) == 1)
                .collect();
            let [reason] = reasons[..] else { return Err(format!("answered for {reasons:?}")) };
            verdict = Verdict::Drop(reason);
        }
        self.done.replaced += replaced;
        self.done.answered += answered;
        self.done.remapped += remapped;
        self.tell(format!("   {hook:?}: {verdict:?}, answered: {answered}"));
        Ok((verdict, (!matches!(verdict, Verdict::Drop(_))).then_some(packet.bytes)))
    }

    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Stack => self.done.translated += 1,
            Verdict::Redirect(_) | Verdict::HandOver(_) => self.done.redirected += 1,
            Verdict::Bounce => self.done.bounced += 1,
            Verdict::Pass | Verdict::Drop(_) => {}
        }
    }

    /// A connection that is established is never dropped, and nothing is without a reason.
    fn may_be_dropped(&self, number: usize, verdict: Verdict) -> Result<(), String> {
        let conversation = &self.conversations[number];
        let (Some(service), Verdict::Drop(reason)) = (conversation.service(), verdict) else {
            return Err(format!("{verdict:?} of a packet past all services"));
        };
        let no_backends = self.services[usize::from(service)].0 == 0;
        let no_flow = conversation.over || conversation.seen.is_none();
        if (reason == Counter::DropNoEndpoint && no_backends) || (reason == Counter::DropNoFlow && no_flow) {
            return Ok(());
        }
        Err(format!("dropped for {}: {conversation:?}", reason.name()))
    }

    /// What may have become of a client's packet when it reaches somebody.
    fn check_forward(&mut self, number: usize, view: &Tuple, flags: Flags) -> Result<(), String> {
        let conversation = self.conversations[number];
        let client = self.client(conversation.client);
        let (addr, dport) = self.target(conversation.to);
        let Some(service) = conversation.service() else {
            let mut straight = Tuple::new(client, conversation.port, addr, dport, conversation.proto);
            if conversation.client == NODE_CLIENT {
                // It may have got another port, where a client's flow has its own.
                straight.sport = view.sport;
            }
            return if *view == straight { Ok(()) } else { Err(format!("a direct packet became {view:?}")) };
        };
        let (backends, there) = self.services[usize::from(service)];
        if (view.dst, view.dport) == (addr, dport) {
            let kept = conversation.proto == proto::TCP && conversation.seen.is_some() && flags != Flags::Syn;
            // TCP that nobody opened is left to the node's stack, to which it may be an answer.
            let stack = conversation.over && flags != Flags::Syn && conversation.proto == proto::TCP;
            let to_node = matches!(conversation.to, Target::NodePort(_));
            return if (there && !(stack && to_node)) || (kept && !conversation.over) {
                Err("a packet to a service passed untranslated".into())
            } else {
                Ok(())
            };
        }
        let pod = self.pod_of(view.dst).ok_or_else(|| format!("went to {view:?}, which is no pod"))?;
        let kept = conversation.seen == Some(*view);
        if backends >> pod & 1 == 0 && !kept {
            return Err(format!("pod {pod} is no backend of service {service} ({backends:07b})"));
        }
        let begun = conversation.proto == proto::TCP && flags != Flags::Syn && !conversation.over;
        if begun && conversation.seen.is_some() && !kept {
            return Err(format!("a TCP connection moved from {:?} to {view:?}", conversation.seen));
        }
        if conversation.over && conversation.proto == proto::TCP && flags != Flags::Syn {
            return Err("TCP that nobody opened was translated".into());
        }
        let mask = self.mask(conversation.client, pod);
        let hairpin = (view.dst == client).then(|| self.net.gateway());
        let source = mask.or(hairpin).unwrap_or(client);
        if view.src != source {
            return Err(format!("the source became {view:?}, not {source:?}"));
        }
        self.done.masked += u64::from(mask.is_some());
        self.done.moved += u64::from(view.sport != conversation.port);
        Ok(())
    }

    /// A packet reached a backend: it knows its peer by `view`.
    fn see(&mut self, number: usize, view: Tuple) -> Result<(), String> {
        let now = self.now;
        if self.pod_of(view.dst).is_none() {
            self.conversations[number].seen = None;
            return Ok(());
        }
        if self.pod_of(view.dst) == Some(HOST) && view.dport.get() != PORT {
            // The service is gone, and the node itself has nobody there.
            self.conversations[number].seen = None;
            return Ok(());
        }
        let opened_direct = self.conversations[number].service().is_none();
        let by_node = self.conversations[number].client == NODE_CLIENT;
        self.done.own += u64::from(by_node);
        for (i, other) in self.conversations.iter_mut().enumerate() {
            if i == number || other.seen != Some(view) || !other.lives(now) {
                continue;
            }
            // The datapath knows nothing of direct connections but their beginnings, so a translated one may take the
            // ports of a direct one, and a new direct one takes those of a translated one.
            // But the node's own gets another port where it would meet a client's.
            if by_node && other.service().is_some() {
                return Err(format!("the node's own conversation {number} is taken for {i}: {view:?}"));
            }
            if opened_direct || other.service().is_none() {
                other.over = true;
            } else {
                return Err(format!("a backend sees conversations {i} and {number} alike: {view:?}"));
            }
        }
        self.conversations[number].seen = Some(view);
        self.views.retain(|(other, _)| *other != view);
        self.views.push((view, number));
        Ok(())
    }

    fn reply(&mut self, which: usize, flags: Flags) -> Result<(), String> {
        let (view, number) = self.views[which];
        let conversation = self.conversations[number];
        if !conversation.lives(self.now) && conversation.proto == proto::TCP {
            // A backend's stack has nothing more to say either.
            return Ok(());
        }
        let flags = if flags == Flags::Syn { Flags::Ack } else { flags };
        let tuple = view.reversed();
        self.tell(format!("{number}: reply {flags:?} {tuple:?}"));
        let arrived = self.travel(tuple, number, flags)?.ok_or("a reply was dropped")?;
        let current = conversation.seen == Some(view) && !conversation.over;
        let (addr, port) = self.target(conversation.to);
        let client = self.client(conversation.client);
        let wanted = Tuple::new(addr, port, client, conversation.port, conversation.proto);
        if arrived.tuple == wanted {
            self.done.replies += 1;
        } else if current && conversation.lives(self.now) {
            return Err(format!("a reply arrived as {:?}, not {wanted:?}", arrived.tuple));
        } else if arrived.tuple != tuple {
            return Err(format!("a late reply {tuple:?} of {conversation:?} arrived as {:?}", arrived.tuple));
        }
        if current {
            let conversation = &mut self.conversations[number];
            conversation.last = self.now;
            conversation.closing |= matches!(flags, Flags::Fin | Flags::Rst) && conversation.proto == proto::TCP;
        }
        Ok(())
    }
}

fn packet(tuple: Tuple, number: usize, flags: Flags) -> Vec<u8> {
    let flags = match flags {
        Flags::Syn => 0x02,
        Flags::Ack => 0x10,
        Flags::Fin => 0x11,
        Flags::Rst => 0x14,
    };
    let payload = (number as u32).to_be_bytes().to_vec();
    PacketSpec::new(tuple).flags(flags).with(|p| (p.payload, p.l4_sum) = (payload, L4Sum::Good)).build()
}

fn read(bytes: &[u8]) -> Result<Dissected, String> {
    let packet = dissect(bytes, 14)?;
    if packet.ip_sum == Sum::Bad || packet.l4_sum != Sum::Good {
        return Err(format!("checksums {:?} and {:?} of {:?}", packet.ip_sum, packet.l4_sum, packet.tuple));
    }
    Ok(packet)
}

/// Nothing but a configuration to be filled in.
fn empty() -> Contents {
    let mut world = World::tcp(Net::V4);
    world.services.clear();
    world.backends.clear();
    world.addrs.clear();
    world.devs.clear();
    world.contents(0)
}
