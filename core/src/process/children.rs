//! The master's children: which there are, which should be, and what they are called in the log.

use std::time::Instant;

use nix::unistd::Pid;

use super::brake::{Brake, Death};
use crate::slot;

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The worker of this place in its generation.
    Worker(usize),
    /// The helper of this place in its generation.
    Helper(usize),
}

/// A child process.
#[derive(Debug)]
pub struct Child {
    /// Its process id.
    pub pid: Pid,
    /// Its slot in the zones.
    pub slot: usize,
    /// What it is for.
    pub role: Role,
    /// What it is called.
    pub name: &'static str,
    /// When it was started.
    pub started: Instant,
    /// It has been told to end, and is not replaced.
    pub leaving: bool,
}

/// All children that have not been waited for.
#[derive(Debug, Default)]
pub struct Children {
    list: Vec<Child>,
    /// Helpers of this generation that have done what they were for.
    done: Vec<usize>,
    /// The places of this generation in which a process has ended by itself.
    brakes: Vec<(Role, Brake)>,
}

/// Which places there are to fill.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Workers.
    pub workers: usize,
    /// Helpers.
    pub helpers: usize,
}

impl Children {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Child> + Clone {
        self.list.iter()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One more.
    pub fn add(&mut self, child: Child) {
        self.list.push(child);
    }

    /// The one that has ended; it is no longer among them.
    pub fn remove(&mut self, pid: Pid) -> Option<Child> {
        let at = self.list.iter().position(|child| child.pid == pid)?;
        Some(self.list.swap_remove(at))
    }

    /// All that stay are to leave from now on; returns them.
    pub fn dismiss(&mut self) -> Vec<Pid> {
        let staying = self.list.iter_mut().filter(|child| !child.leaving);
        staying
            .map(|child| {
                child.leaving = true;
                child.pid
            })
            .collect()
    }

    /// A new generation begins: its helpers have all to do, and nothing speaks against its processes.
    pub fn begin(&mut self) {
        self.done.clear();
        self.brakes.clear();
    }

    /// A process that was to stay has ended.
    pub fn ended(&mut self, child: &Child, how: Death, now: Instant) {
        let known = self.brakes.iter().position(|(role, _)| *role == child.role);
        let at = known.unwrap_or_else(|| {
            self.brakes.push((child.role, Brake::default()));
            self.brakes.len() - 1
        });
        if let Some((_, brake)) = self.brakes.get_mut(at) {
            brake.ended(how, child.started, now);
        }
    }

    /// The helper of this place has done what it was for and is not started again.
    pub fn set_done(&mut self, helper: usize) {
        self.done.push(helper);
    }

    /// The next role that nobody fills and that may be filled now: workers first, then helpers.
    pub fn missing(&self, wanted: Wanted, now: Instant) -> Option<Role> {
        self.empty(wanted).find(|(_, until)| until.is_none_or(|until| until <= now)).map(|(role, _)| role)
    }

    /// When the next of the roles that nobody fills may be filled; `None` when none is empty, or one may be at once.
    pub fn next_start(&self, wanted: Wanted) -> Option<Instant> {
        self.empty(wanted).map(|(_, until)| until).min().flatten()
    }

    /// The roles that nobody fills, and when each may be filled.
    fn empty(&self, wanted: Wanted) -> impl Iterator<Item = (Role, Option<Instant>)> {
        let staying = || self.list.iter().filter(|child| !child.leaving);
        let in_need = !staying().any(|child| matches!(child.role, Role::Worker(_)));
        let helpers = (0..wanted.helpers).filter(|place| !self.done.contains(place)).map(Role::Helper);
        let roles = (0..wanted.workers).map(Role::Worker).chain(helpers);
        roles.filter(move |role| !staying().any(|child| child.role == *role)).map(move |role| {
            let brake = self.brakes.iter().find(|(braked, _)| *braked == role);
            (role, brake.and_then(|(_, brake)| brake.until(in_need)))
        })
    }

    /// A slot in the zones for one more, among those of a master whose slots begin at `first`.
    pub fn slot(&self, first: usize) -> usize {
        slot::choose(first, self.list.iter().map(|child| child.slot))
    }

    /// True when a child has this slot.
    pub fn uses(&self, slot: usize) -> bool {
        self.list.iter().any(|child| child.slot == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(pid: i32, role: Role) -> Child {
        Child {
            pid: Pid::from_raw(pid),
            slot: 0,
            role,
            name: "worker process",
            started: Instant::now(),
            leaving: false,
        }
    }

    const TWO: Wanted = Wanted { workers: 2, helpers: 2 };

    #[test]
    fn roles_are_filled_in_order_and_again_when_somebody_leaves() {
        let (mut children, now) = (Children::default(), Instant::now());
        for (pid, expected) in [(1, Role::Worker(0)), (2, Role::Worker(1)), (3, Role::Helper(0)), (4, Role::Helper(1))]
        {
            assert_eq!(children.missing(TWO, now), Some(expected));
            children.add(child(pid, expected));
        }
        assert_eq!(children.missing(TWO, now), None);
        assert_eq!(children.missing(Wanted { workers: 1, helpers: 0 }, now), None);
        assert!(children.remove(Pid::from_raw(1)).is_some() && children.remove(Pid::from_raw(9)).is_none());
        assert_eq!(children.missing(TWO, now), Some(Role::Worker(0)));
        children.add(child(5, Role::Worker(0)));
        // One that has done its work is not missed until there is a new generation.
        children.remove(Pid::from_raw(3));
        children.set_done(0);
        assert_eq!(children.missing(TWO, now), None);
        children.begin();
        assert_eq!(children.missing(TWO, now), Some(Role::Helper(0)));
        assert_eq!(children.dismiss().len(), 3);
        assert!(children.dismiss().is_empty() && !children.is_empty());
        assert_eq!(children.missing(TWO, now), Some(Role::Worker(0)));
    }

    #[test]
    fn a_place_that_waits_keeps_no_other_waiting() {
        let (mut children, now) = (Children::default(), Instant::now());
        children.add(child(1, Role::Worker(0)));
        children.add(child(3, Role::Helper(0)));
        children.add(child(4, Role::Helper(1)));
        for _ in 0..5 {
            let unlucky = child(2, Role::Worker(1));
            assert_eq!(children.missing(TWO, now), Some(Role::Worker(1)));
            children.ended(&unlucky, Death::Crashed, now);
            if children.next_start(TWO).is_some() {
                break;
            }
        }
        assert_eq!(children.missing(TWO, now), None);
        let due = children.next_start(TWO).unwrap();
        assert_eq!(children.missing(TWO, due), Some(Role::Worker(1)));
        // The other is filled at once, and when there is none the one that waits waits less.
        let other = children.remove(Pid::from_raw(1)).unwrap();
        children.ended(&other, Death::Crashed, now);
        assert_eq!(children.missing(TWO, now), Some(Role::Worker(0)));
        children.ended(&other, Death::Unable, now);
        children.ended(&other, Death::Unable, now);
        assert_eq!(children.missing(TWO, now), None);
        assert!(children.next_start(TWO).unwrap() < due);
        children.begin();
        assert_eq!(children.missing(TWO, now), Some(Role::Worker(0)));
    }
}
