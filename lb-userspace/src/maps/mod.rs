//! From desired state to map contents, and back.
//!
//! ```text
//! ServiceChange ─► Tables::apply (wanted → backends → sets → frontends → release) ─► MapStore ─► bpf(2), mmap
//!                       ▲ adopt: what an earlier agent left                             │
//! State ◄─ dump ◄───────┴───────────────────────────────────────────────────────────────┘
//! ```
//! [`MapStore`] is the only door to the tables: [`BpfStore`] is the kernel's, [`MemStore`] a model of it with faults.
//! [`Tables`] owns the identifiers and makes every change atomic for its readers. Nothing here knows Kubernetes, and
//! nothing here loads or attaches a program.

mod addresses;
mod adopt;
mod apply;
mod backends;
mod bpf;
mod bpf_filter;
mod bpf_open;
mod capacity;
mod content;
mod contents;
mod dense;
mod dump;
mod error;
mod filter;
mod frontends;
mod generations;
mod grace;
mod identity;
mod ids;
mod jobs;
mod maglev;
mod mem;
mod mmap;
mod names;
mod open_error;
mod prune;
mod release;
mod runs;
mod sets;
mod shape;
mod standing;
mod store;
mod sys;
mod table;
mod typed;
mod usage;
mod verify;
mod wanted;
mod weights;

pub use adopt::Adopted;
pub use apply::BATCH;
pub use bpf::{BpfStore, create_pinned};
pub use bpf_filter::BpfFilter;
pub use capacity::Capacities;
pub use content::{IDLE_END, RunContent};
pub use contents::{Contents, RecyclingHash};
pub use dump::{DumpError, dump};
pub use error::{ApplyError, ApplyOutcome, Cause, Part, Problem};
pub use filter::{FilterMaps, Wear, renew, wear};
pub use grace::Grace;
pub use identity::{Fnv, Identify, port_identity, set_identity};
pub use maglev::{MAGLEV_SIZES, MaglevBackend, MaglevSize, maglev_table};
pub use mem::{Event, Faults, MemStore, Observer};
pub use names::{BackendCounts, BackendZone, Names, SetName};
pub use open_error::OpenError;
pub use prune::PruneError;
pub use shape::{MapKind, PodNet, RangeEntry, SHAPES, Shape, shape};
pub use standing::Standing;
pub use store::{BatchError, MapStore, StoreError};
pub use table::{Freed, Tables};
pub use usage::{Counted, Usage, count_usage};
pub use weights::repeats;
