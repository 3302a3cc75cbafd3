//! What tests of the datapath share: [`MemTables`] and [`VecPacket`] stand in for the maps and the skb, [`PacketSpec`]
//! builds packets from scratch, and [`cases`] is the one table of packet cases that runs on the host and, through
//! `BPF_PROG_TEST_RUN`, in the kernel.
//!
//! Nothing here is part of a product: it is compiled into tests only, and it never uses the core's own arithmetic to
//! say what is right.

mod answers;
mod bytes;
mod case;
pub mod cases;
mod dissect;
mod fixture;
mod flows;
pub mod fuzz;
mod hook;
mod lru;
mod malformed;
mod mem_tables;
mod packet_spec;
mod recycling;
mod sock_affinity;
mod sock_case;
pub mod sock_cases;
mod sum;
mod table;
mod vec_packet;
pub(crate) mod world;
pub(crate) mod worlds;

pub use answers::{Told, answer, check_answer};
pub use case::{Case, Observed};
pub use dissect::{Dissected, Sum, describe, dissect};
pub use fixture::{DEV_BRIDGE, DEV_CLIENT, DEV_OVERLAY, DEV_SERVER, DEV_UPLINK, Net, route};
pub use flows::{FlowSpec, outside_flow, pair};
pub use hook::{Action, Hook, test_run_answers, test_run_is_foreign, test_run_takes};
pub use malformed::malformed;
pub use mem_tables::{ARRAY_LEN, MemTables};
pub use packet_spec::{Extension, Fragment, L4Sum, MAC, PacketSpec};
pub use recycling::Recycling;
pub use sock_case::{Request, SockCase, SockSpec};
pub use sum::{crc32c, internet_sum};
pub use table::Table;
pub use vec_packet::{Sums, VecPacket};
pub use world::{AffinitySpec, Contents, HOST, LOCAL, REMOTE, ServiceSpec, World};
