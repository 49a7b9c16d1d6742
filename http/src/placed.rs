//! Large futures, made where they stay.

use std::future::Future;
use std::pin::Pin;

/// Makes a large future where it stays: `Box::pin` would make it on the stack and copy all of it, though it is next to
/// empty before it is first polled.
#[inline(always)]
pub fn placed<F: Future>(make: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::into_pin(Box::write(Box::new_uninit(), make()))
}
