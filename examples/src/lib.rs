//! Compiled and tested examples of each kind of extension.
