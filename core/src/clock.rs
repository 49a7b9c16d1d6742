//! The one place that asks what time it is, and the few formats of it that logs and replies share.
//!
//! Formatted strings are remembered for their second: a worker makes each once a second however often it is used.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

/// Wall-clock time since the epoch.
pub fn wall() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds since the epoch, by the kernel's coarse clock: cheap enough to ask for each answer.
pub fn seconds() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse).tv_sec
}

#[derive(Default)]
struct Memo {
    second: Option<i64>,
    error_log: String,
    access_log: String,
    iso8601: String,
    syslog: String,
    zone: Option<TimeZone>,
}

thread_local! {
    static MEMO: RefCell<Memo> = RefCell::default();
}

fn with_memo<R>(look: impl FnOnce(&Memo) -> R) -> R {
    MEMO.with_borrow_mut(|memo| {
        let now = seconds();
        if memo.second != Some(now) {
            let zone = memo.zone.get_or_insert_with(TimeZone::system).clone();
            let local = jiff::Timestamp::from_second(now).unwrap_or_default().to_zoned(zone);
            memo.second = Some(now);
            memo.error_log = local.strftime("%Y/%m/%d %H:%M:%S").to_string();
            memo.access_log = local.strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
            memo.iso8601 = local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
            memo.syslog = local.strftime("%b %e %H:%M:%S").to_string();
        }
        look(memo)
    })
}

/// The second of the local day.
pub fn second_of_day() -> i64 {
    let now = jiff::Timestamp::from_second(seconds()).unwrap_or_default().to_zoned(TimeZone::system());
    i64::from(now.hour()) * 3600 + i64::from(now.minute()) * 60 + i64::from(now.second())
}

/// `2026/01/31 23:59:59`, the error log's time.
pub fn error_log_time(out: &mut Vec<u8>) {
    with_memo(|memo| out.extend_from_slice(memo.error_log.as_bytes()));
}

/// `31/Jan/2026:23:59:59 +0000`, `$time_local`.
pub fn time_local(out: &mut Vec<u8>) {
    with_memo(|memo| out.extend_from_slice(memo.access_log.as_bytes()));
}

/// `2026-01-31T23:59:59+00:00`, `$time_iso8601`.
pub fn time_iso8601(out: &mut Vec<u8>) {
    with_memo(|memo| out.extend_from_slice(memo.iso8601.as_bytes()));
}

/// `Jan  1 23:59:59`, the time of RFC 3164.
pub fn syslog_time(out: &mut Vec<u8>) {
    with_memo(|memo| out.extend_from_slice(memo.syslog.as_bytes()));
}

/// Milliseconds of the machine's monotonic clock, by the coarse clock: the same in every process, and never set back.
pub fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    // No machine runs for so long that this would overflow.
    seconds.wrapping_mul(1000).wrapping_add(u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000)
}
