//! Whether the datapath is what the agent wants it to be: maps against the plan, programs against the links, pins
//! against what was loaded. And the way back: pins first, then maps by the way of a restart (adopt, apply all, prune),
//! then programs by the functions that attach them anyway. Nothing here knows how one element is written.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result};

use super::{
    answers::absolute,
    api::ApiVerdict,
    cluster::Cluster,
    memory,
    removal::TAKEN_AWAY,
    state::{Agent, Prune},
};
use crate::{
    loader::{Fault, LinkPin},
    maps::{BpfStore, Cause, MapStore as _, Problem, Tables},
    plan::{
        compare::Difference,
        state::{ServiceName, State},
    },
};

/// What is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// All but what failed and is being tried again: that is known, and told.
    News,
}

/// Everything that differs, by who mends it.
#[derive(Default)]
struct Findings {
    pins: Vec<Difference>,
    services: Vec<Difference>,
    /// Of the links' tables and the configuration.
    links: Vec<Difference>,
    skips: Vec<Difference>,
    programs: Vec<(LinkPin, Difference)>,
}

impl Findings {
    fn all(&self) -> BTreeSet<Difference> {
        let Self { pins, services, links, skips, programs } = self;
        let programs = programs.iter().map(|(_, difference)| difference);
        pins.iter().chain(services).chain(links).chain(skips).chain(programs).cloned().collect()
    }
}

impl Agent {
    /// Compares, mends if asked to, and compares again.
    ///
    /// # Errors
    /// If the kernel does not tell how things are.
    pub(super) fn verify(&mut self, repair: bool, scope: Scope) -> Result<ApiVerdict> {
        let mut verdict = ApiVerdict {
            bpffs: absolute(&self.settings.bpffs),
            ready: self.ready,
            snapshot: self.snapshot_status(),
            ..ApiVerdict::default()
        };
        if self.is_taken_away() {
            anyhow::bail!(TAKEN_AWAY);
        }
        if !self.ready {
            return Ok(verdict);
        }
        let findings = self.findings(scope)?;
        memory::give_back_after(self.tables.services().count());
        let before = findings.all();
        if before.is_empty() || !repair {
            verdict.left = before.into_iter().collect();
            verdict.limits = limits(self.failed.values().flat_map(|failed| &failed.problems));
            return Ok(verdict);
        }
        verdict.problems = self.mend(&findings);
        let left = self.findings(scope)?.all();
        verdict.repaired = before.difference(&left).cloned().collect();
        verdict.left = left.into_iter().collect();
        verdict.limits = limits(self.failed.values().flat_map(|failed| &failed.problems));
        Ok(verdict)
    }

    fn findings(&mut self, scope: Scope) -> Result<Findings> {
        let pins = self.datapath.verify_maps().context("look at the pinned maps")?;
        let pins = pins
            .into_iter()
            .map(|Fault { pin, found, wanted }| Difference::new(format!("pin of map {pin}"), found, wanted));
        let intent: State = self.planner.state();
        let keeps_unknown = self.has_bad_objects();
        let known = scope == Scope::News;
        let failed: HashSet<ServiceName> = if known { self.failed.keys().cloned().collect() } else { HashSet::new() };
        let services = self.tables.verify(&intent, keeps_unknown, &failed).context("read the maps")?;
        let mut links = self.links.verify_tables(self.tables.store()).context("read the maps of links")?;
        let config = self.tables.store().config()?;
        if config != self.config {
            let text = |config| format!("{config:?}");
            links.push(Difference::of_map("configuration", text(config), text(self.config)));
        }
        if known && self.links.tables_fail() {
            links.clear();
        }
        let skips = self.skips.verify(self.tables.store()).context("read the map of skipped sockets")?;
        let names = self.links.pins();
        let wanted: BTreeSet<LinkPin> = names.keys().copied().chain(self.datapath.socket_pins()).collect();
        let faults = self.datapath.verify_links(&wanted).context("look at the attached programs")?;
        let faults = faults.into_iter().filter(|fault| !(known && self.links.is_failing(fault.pin)));
        let programs = faults.map(|fault| (fault.pin, program_difference(fault, &names)));
        Ok(Findings { pins: pins.collect(), services, links, skips, programs: programs.collect() })
    }

    /// Whether nothing is attached that this agent has not loaded itself, with the maps that it has opened: in the tables of
    /// an earlier run there may be programs at work that have other maps beside them, if somebody took pins away.
    pub(super) fn knows_all_programs(&self) -> bool {
        let wanted: BTreeSet<LinkPin> = self.links.pins().into_keys().chain(self.datapath.socket_pins()).collect();
        !self.adopted || self.ready && self.datapath.verify_links(&wanted).is_ok_and(|faults| faults.is_empty())
    }

    /// Mends what can be; gives what could not be tried, for people.
    fn mend(&mut self, findings: &Findings) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note = |result: Result<()>| problems.extend(result.err().map(|error| format!("{error:#}")));
        if !findings.pins.is_empty() {
            note(self.datapath.restore_pins().map_err(Into::into));
        }
        if !findings.services.is_empty() {
            note(self.adopt_again());
        }
        if !findings.links.is_empty() {
            self.links.settle_tables(self.tables.store_mut());
            self.configure();
        }
        if !findings.skips.is_empty() {
            self.apply_skips();
        }
        let devices: BTreeSet<u32> = findings.programs.iter().filter_map(|(pin, _)| pin.ifindex()).collect();
        self.links.attach_again(&devices, &mut self.datapath);
        if findings.programs.iter().any(|(pin, _)| matches!(pin, LinkPin::Socket(_))) {
            note(self.datapath.attach_sockets().map_err(Into::into));
        }
        if self.links.has_failures() {
            self.schedule_retry();
        }
        problems
    }

    /// Takes the maps over as a new agent would, and brings them to the plan.
    fn adopt_again(&mut self) -> Result<()> {
        if !self.datapath.verify_maps()?.is_empty() {
            anyhow::bail!(
                "the pinned maps are not those that the programs use, so they are not written to: remove the pins \
                 that `berrylb verify` names, and have it repair again"
            );
        }
        let store = BpfStore::open(self.datapath.layout().version()).context("open the maps again")?;
        let (found, adopted) = Tables::adopt(store).context("read the maps back")?;
        tracing::debug!(?adopted, "adopted the maps again");
        self.tables.go_on_from(found);
        self.planner.tell_peers_again();
        self.settle_addresses();
        let all = self.planner.all();
        self.apply(&all);
        self.prune_unlisted();
        Ok(())
    }

    /// Deletes what the maps hold of Services that are not there any more.
    pub(super) fn prune_unlisted(&mut self) {
        // Services that have a bad object now keep what an earlier run gave them.
        if self.has_bad_objects() {
            tracing::warn!(
                "an object is bad, so what an earlier run left of unlisted services is kept until it is good"
            );
            self.prune = Prune::BadObject;
            return;
        }
        let keep: HashSet<ServiceName> = self.planner.served().cloned().collect();
        let pruned = self.tables.prune(&keep).map(drop).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            errors.join("; ")
        });
        self.prune = if pruned.is_ok() { Prune::Done } else { Prune::Failed };
        self.note("not all that an earlier run left is deleted", pruned);
    }

    pub(super) fn has_bad_objects(&self) -> bool {
        self.files.has_bad_objects() || self.cluster.as_ref().is_some_and(Cluster::has_bad_objects)
    }
}

/// What Services lack that no repair gives them, each with what does.
fn limits<'a>(problems: impl Iterator<Item = &'a Problem>) -> Vec<String> {
    let limit = |problem: &Problem| match &problem.cause {
        // How much was needed differs from Service to Service.
        Cause::Full { map, capacity, flag, needed: _ } => {
            let full = Cause::Full { map, capacity: *capacity, flag, needed: None };
            Some(format!(
                "{full}; a pinned table keeps its size until `berrylb cleanup`, which interrupts traffic, and a new start of \
                 the agent"
            ))
        }
        Cause::TooManySlots { .. } | Cause::SmallTable { .. } => Some(problem.cause.to_string()),
        Cause::Contradiction | Cause::Store(_) => None,
    };
    problems.filter_map(limit).collect::<BTreeSet<_>>().into_iter().collect()
}

fn program_difference(fault: Fault<LinkPin>, devices: &BTreeMap<LinkPin, String>) -> Difference {
    let Fault { pin, found, wanted } = fault;
    let place = match (pin.ifindex(), devices.get(&pin)) {
        (None, _) => "the cgroup".to_owned(),
        (Some(ifindex), Some(name)) => format!("device {name} (index {ifindex})"),
        (Some(ifindex), None) => format!("device {ifindex}"),
    };
    Difference::new(format!("program {} on {place}", pin.program()), found, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::{Part, StoreError};

    #[test]
    fn limits_are_told_once_and_with_what_helps() {
        let problem = |cause| Problem { part: Part::Leftover, cause };
        let full = |needed| problem(Cause::Full { map: "slots", capacity: 8, flag: "--max-slots", needed });
        let refused = problem(Cause::Store(StoreError::Full { map: "services" }));
        let small = problem(Cause::SmallTable { endpoints: 300, size: 251 });
        let told = limits([full(None), refused, full(Some((3, 1))), small].iter());
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("--maglev-table-size") && !told[0].contains("cleanup"), "{told:?}");
        assert!(told[1].starts_with("map slots is full (8 entries): raise --max-slots; a pinned"), "{told:?}");
    }
}
