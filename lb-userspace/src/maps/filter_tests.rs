//! The filter is made anew while programs run, and whoever makes it may die at any point. Programs are taken apart into
//! their single accesses here, so that a run may stand still between any two of them.

use std::cell::{Cell, RefCell};

use lb_common::{
    abi::{Addr, Flow, Port, proto},
    datapath::Tables as _,
    testing::{MemTables, Table},
};
use proptest::{prelude::*, test_runner::TestRng};

use super::*;

/// Keys that flows come and go under.
const KEYS: u16 = 96;

fn key(n: u16) -> Tuple {
    Tuple::new(Addr::v4([10, 0, 0, 1]), Port::new(n), Addr::v4([10, 0, 0, 2]), Port::new(80), proto::TCP)
}

/// Programs that have begun and not ended.
#[derive(Default)]
struct Running {
    /// Marked, and not inserted yet.
    inserting: Vec<(FlowTable, Tuple)>,
    /// The word that says which filter is asked was read, its byte was not.
    asking: Vec<u32>,
}

/// A node's tables, with programs at work between any two accesses of who makes the filter anew.
struct Node {
    tables: MemTables,
    running: RefCell<Running>,
    random: RefCell<TestRng>,
    /// Accesses that are still made; then it is dead.
    life: Cell<u32>,
    /// Waits since the look began.
    waits: Cell<u32>,
    /// The one of them to leave out, to see that it is needed.
    left_out: Option<u32>,
}

impl Node {
    fn new(random: TestRng) -> Self {
        let tables = MemTables::new();
        tables.limit(Table::Flows, 16);
        tables.limit(Table::Embryos, 16);
        tables.with_filter(|filter| filter.reading = reading::NONE);
        let (running, random) = (RefCell::default(), RefCell::new(random));
        Self { tables, running, random, life: Cell::new(u32::MAX), waits: Cell::new(0), left_out: None }
    }

    fn below(&self, end: u32) -> u32 {
        self.random.borrow_mut().random_range(0..end)
    }

    /// Flows that came and went have left their marks.
    fn wear_out(&self) {
        for _ in 0..FILTER_LEN / 2 {
            self.tables.mark_filter(self.below(FILTER_LEN as u32));
        }
    }

    /// Programs run on, and each of them would find every flow.
    fn shake(&self) {
        for _ in 0..self.below(6) {
            self.step();
            self.check();
        }
    }

    fn step(&self) {
        let mut running = self.running.borrow_mut();
        let key = key(self.below(KEYS.into()) as u16);
        let table = if self.below(2) == 0 { FlowTable::Flows } else { FlowTable::Embryos };
        match self.below(8) {
            0 | 1 => {
                self.tables.mark_filter(filter_place(&key));
                running.inserting.push((table, key));
            }
            2 | 3 => {
                if let Some((table, key)) = running.inserting.pop() {
                    self.insert(table, &key);
                }
            }
            4 => {
                assert!(self.tables.insert_flow(table, &key, &Flow::default()));
            }
            5 => running.asking.push(self.tables.with_filter(|filter| filter.reading)),
            6 => drop(running.asking.pop()),
            _ => drop(self.tables.evict(table, &key)),
        }
    }

    fn insert(&self, table: FlowTable, key: &Tuple) {
        assert!(self.tables.put_flow(table, key, &Flow::default()));
    }

    /// Every flow is in the filter that is asked, and in those that a program is about to ask.
    fn check(&self) {
        let entries = self.tables.flow_entries();
        let running = self.running.borrow();
        self.tables.with_filter(|filter| {
            let mut asked = running.asking.clone();
            asked.push(filter.reading);
            for (table, key, _) in &entries {
                for asked in asked.iter().filter(|asked| **asked != reading::NONE) {
                    let place = filter_place(key) as usize;
                    assert_ne!(filter.places_mut(*asked)[place], 0, "{table:?} {key:?} in filter {asked}");
                }
            }
        });
    }

    /// Whether the one who makes the filter anew still lives.
    fn lives(&self) -> bool {
        self.shake();
        let life = self.life.get();
        self.life.set(life.saturating_sub(1));
        life > 0
    }

    fn dead() -> StoreError {
        StoreError::Full { map: "dead" }
    }
}

impl FilterMaps for Node {
    fn reading(&self) -> u32 {
        self.shake();
        self.waits.set(0);
        self.tables.with_filter(|filter| filter.reading)
    }

    fn ask(&mut self, filter: u32) {
        if self.lives() {
            self.tables.with_filter(|all| all.reading = filter);
        }
        self.shake();
    }

    fn used(&self, filter: u32) -> usize {
        self.tables.with_filter(|all| all.places_mut(filter).iter().filter(|byte| **byte != 0).count())
    }

    fn clear(&mut self, filter: u32) {
        for part in 0..8 {
            if self.lives() {
                let len = FILTER_LEN / 8;
                self.tables.with_filter(|all| all.places_mut(filter)[part * len..][..len].fill(0));
            }
        }
    }

    fn mark(&mut self, filter: u32, place: u32) {
        if self.lives() {
            self.tables.with_filter(|all| all.places_mut(filter)[place as usize] = 1);
        }
    }

    fn each_key(&self, table: FlowTable, show: &mut dyn FnMut(&Tuple)) -> Result<(), StoreError> {
        for (found, key, _) in self.tables.flow_entries() {
            if found == table {
                if !self.lives() {
                    return Err(Self::dead());
                }
                show(&key);
            }
        }
        Ok(())
    }

    fn grace_period(&mut self) -> Result<(), StoreError> {
        if !self.lives() {
            return Err(Self::dead());
        }
        self.waits.set(self.waits.get() + 1);
        if self.left_out == Some(self.waits.get()) {
            return Ok(());
        }
        let ended = self.running.take();
        for (table, key) in ended.inserting {
            self.insert(table, &key);
        }
        self.shake();
        Ok(())
    }
}

/// Wears the filter out and makes it anew, again and again, by one who dies at some point or another.
fn live(mut node: Node, turns: u32) {
    for _ in 0..turns {
        node.wear_out();
        node.life.set(if node.below(3) == 0 { u32::MAX } else { node.below(120) });
        let before = node.tables.with_filter(|filter| filter.reading);
        let renewed = renew(&mut node);
        let alive = node.life.get() > 0;
        let now = node.tables.with_filter(|filter| filter.reading);
        if alive {
            let used = renewed.expect("the living get to the end");
            assert!(now != before && now != reading::NONE, "the other one is asked");
            assert!(used <= usize::from(KEYS), "{used} places of {KEYS} keys");
        } else {
            assert!(now == before || renewed.is_ok(), "nothing else is asked before all is done");
        }
        node.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_flow_is_ever_missed(seed in any::<[u8; 32]>()) {
        live(Node::new(TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed)), 6);
    }
}

/// Both waits are needed: without either, some run of programs misses a flow.
#[test]
fn neither_wait_can_be_left_out() {
    for left_out in [1, 2] {
        let misses = (0..200).any(|seed: u8| {
            let run = move || {
                let random = TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &[seed; 32]);
                live(Node { left_out: Some(left_out), ..Node::new(random) }, 6);
            };
            std::panic::catch_unwind(run).is_err()
        });
        assert!(misses, "nothing was missed without wait {left_out}");
    }
}

#[test]
fn it_is_made_anew_when_that_gains_something() {
    let mut node = Node::new(TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha));
    assert_eq!(wear(&node, 0), Wear::Unasked, "flows may be older than the filter");
    assert!(renew(&mut node).unwrap() <= KEYS.into());
    assert!(matches!(wear(&node, 0), Wear::Good(used) if used <= KEYS.into()));
    node.wear_out();
    assert!(matches!(wear(&node, FILTER_LEN * 2 / 3), Wear::Good(_)), "the tables are full");
    assert!(matches!(wear(&node, 0), Wear::Worn(used) if used > FILTER_LEN / 4));
}
