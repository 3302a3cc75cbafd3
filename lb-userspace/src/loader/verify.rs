//! Whether what was pinned and attached still is, and still is ours. It only looks, but for [`Datapath::restore_pins`];
//! what is detached is attached again by the functions that attached it.

use std::{collections::BTreeSet, path::Path};

use aya::maps::MapData;

use super::{
    clsact::Clsact,
    datapath::{Datapath, TcHook},
    error::{Error, Result, chain},
    host::interface_indexes,
    layout::LinkPin,
    pins, sockets,
    stats::{MapStats, pinned_map},
    tc,
};
use crate::net::LinkRole;

/// A pin of a map, or an attached program, that is not as this run left it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault<P> {
    /// Which.
    pub pin: P,
    /// How it is.
    pub found: String,
    /// How it should be.
    pub wanted: String,
}

impl Datapath {
    /// The programs that a device of this role carries.
    #[must_use]
    pub fn pins_of(role: &LinkRole, with_xdp: bool) -> Vec<LinkPin> {
        let LinkRole { ifindex, .. } = *role;
        let xdp = with_xdp.then_some(LinkPin::Xdp { ifindex });
        tc::programs(role).iter().map(|program| LinkPin::Tc { program, ifindex }).chain(xdp).collect()
    }

    /// The socket programs that the options ask for.
    #[must_use]
    pub fn socket_pins(&self) -> Vec<LinkPin> {
        sockets::needed(self.socket_lb()).into_iter().map(LinkPin::Socket).collect()
    }

    /// Programs that are not where they should be, or not ours, and pinned links that should not be. A device that is
    /// gone by now misses nothing.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn verify_links(&self, wanted: &BTreeSet<LinkPin>) -> Result<Vec<Fault<LinkPin>>> {
        let devices = interface_indexes()?;
        let here = |pin: &LinkPin| pin.ifindex().is_none_or(|ifindex| devices.contains(&ifindex));
        let clsact = self.clsact()?;
        let mut faults = Vec::new();
        for pin in wanted.iter().copied().filter(here) {
            if let Some(found) = self.fault(pin, &clsact)? {
                faults.push(Fault { pin, found, wanted: "attached".to_owned() });
            }
        }
        for pin in pins::list(self.layout())?.into_iter().filter(|pin| !wanted.contains(pin) && here(pin)) {
            faults.push(Fault { pin, found: "a link is pinned".to_owned(), wanted: "none".to_owned() });
        }
        Ok(faults)
    }

    fn fault(&self, pin: LinkPin, clsact: &Clsact) -> Result<Option<String>> {
        let program = match (pin, self.tc_hook()) {
            (LinkPin::Tc { ifindex, .. }, TcHook::Clsact) => {
                let filters = tc::filters(clsact, ifindex)?;
                let Some(filter) = filters.into_iter().find(|filter| filter.pin == pin) else {
                    return Ok(Some("no filter".to_owned()));
                };
                filter.program
            }
            _ => {
                let Some(link) = pins::open(&self.layout().link(pin))? else {
                    return Ok(Some("no link is pinned".to_owned()));
                };
                if let Some(reason) = pins::stale(pin, &link.info, self.cgroup())? {
                    return Ok(Some(format!("detached ({reason})")));
                }
                link.info.program
            }
        };
        let ours = self.program_id(pin.program())?;
        Ok((program != ours).then(|| format!("it runs another program (id {program}, ours is {ours})")))
    }

    fn program_id(&self, name: &str) -> Result<u32> {
        let failed = |cause: String| Error::Program { program: name.to_owned(), cause };
        let program = self.ebpf().program(name).ok_or_else(|| failed("the object does not hold it".to_owned()))?;
        Ok(program.info().map_err(|error| failed(chain(&error)))?.id())
    }

    /// Maps whose pin is gone, or leads to another map than the programs use.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn verify_maps(&self) -> Result<Vec<Fault<&'static str>>> {
        let mut faults = Vec::new();
        for wanted in self.tables() {
            let found = match pinned_map(self.layout(), wanted.name) {
                Ok(Some(found)) if found.id == wanted.id => continue,
                Ok(Some(found)) => shape_text(&found),
                Ok(None) => "no pin".to_owned(),
                Err(error) => error.to_string(),
            };
            faults.push(Fault { pin: wanted.name, found, wanted: shape_text(wanted) });
        }
        Ok(faults)
    }

    /// Pins the maps again whose pin is gone. What stands in the place of a pin is left alone: it is somebody else's.
    ///
    /// # Errors
    /// Names the map and the cause; those before it are pinned then.
    pub fn restore_pins(&self) -> Result<()> {
        for MapStats { name, id, .. } in self.tables() {
            let path = self.layout().map(name);
            if !exists(&path)? {
                let failed = |cause: String| {
                    Error::setup(format!("cannot pin map {} again: {cause}", path.display()), "start the agent again")
                };
                let map = MapData::from_id(*id).map_err(|error| failed(chain(&error)))?;
                map.pin(&path).map_err(|error| failed(chain(&error)))?;
            }
        }
        Ok(())
    }
}

pub(super) fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(Error::kernel(format!("look at {}", path.display())))
}

fn shape_text(map: &MapStats) -> String {
    let MapStats { id, max_entries, key_bytes, value_bytes, .. } = map;
    format!("map {id} of {max_entries} entries, keys of {key_bytes} and values of {value_bytes} bytes")
}
