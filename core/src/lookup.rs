//! Tables that are made once, of what a configuration says, and looked into for every exchange.

use std::collections::HashMap;

use foldhash::fast::FixedState;

/// A table by keys that a configuration has written. Others may choose what is looked for, but not what is in it: a quick
/// hash will do.
pub type Lookup<K, V> = HashMap<K, V, FixedState>;
