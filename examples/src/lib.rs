//! Compiled and tested examples of each kind of extension: read them as tutorials, copy them as a beginning.
//!
//! A binary with all of them differs from `src/main.rs` in its list of protocols only:
//!
//! ```
//! use tidegate_core::process::Domain;
//! use tidegate_examples::{balancer, directive, echo, filter, peers};
//! use tidegate_http::Http;
//!
//! let http = Http::with(|modules| {
//!     modules.add::<directive::RefuseMethods>().add::<balancer::FirstServer>().add::<filter::UpperCase>();
//!     modules.add::<peers::Peers>();
//! });
//! let protocols: Vec<Box<dyn Domain>> = vec![Box::new(http), Box::new(echo::Echo)];
//! assert!(protocols[0].rows().iter().any(|row| row.name == "upper_case"));
//! ```

pub mod balancer;
pub mod directive;
pub mod echo;
pub mod filter;
pub mod include;
pub mod join;
pub mod peers;
#[cfg(test)]
mod testing;
pub mod trail;
