//! What the machine is called.

/// The machine's name in lower case.
pub fn hostname() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default().to_ascii_lowercase()
}
