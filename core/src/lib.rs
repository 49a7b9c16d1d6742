//! The core: processes, sockets, configuration, variables, zones, TLS and logs. It hosts protocols and knows none.

pub mod build;
pub mod chance;
pub mod clock;
pub mod conf;
pub mod file;
pub mod hostname;
pub mod log;
pub mod lookup;
pub mod module;
pub mod modules;
pub mod net;
pub mod phase;
pub mod process;
pub mod script;
pub mod slot;
pub mod states;
pub mod subject;
pub mod tls;
pub mod zone;
