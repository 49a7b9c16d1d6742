//! Wakes whoever looks after this process's logs, when there is something to look after: lines that are collected, or
//! lines that are lost. As long as there is not, nobody wakes.

use std::rc::Rc;

use tokio::sync::Notify;

thread_local! {
    static BELL: Rc<Notify> = Rc::default();
}

/// There is something to look after now.
pub fn ring() {
    BELL.with(|bell| bell.notify_waiters());
}

/// Waits until there is, from the moment of the call.
pub async fn rung() {
    let bell = BELL.with(Rc::clone);
    bell.notified().await;
}
