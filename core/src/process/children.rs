//! The master's children: which there are, which should be, and what they are called in the log.

use std::time::Instant;

use nix::unistd::Pid;

use super::worker::choose_slot;

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

    /// A new generation begins: its helpers have all to do.
    pub fn begin(&mut self) {
        self.done.clear();
    }

    /// The helper of this place has done what it was for and is not started again.
    pub fn is_done(&mut self, helper: usize) {
        self.done.push(helper);
    }

    /// The next role that nobody fills: workers first, then helpers.
    pub fn missing(&self, workers: usize, helpers: usize) -> Option<Role> {
        let is_filled = |role: &Role| self.list.iter().any(|child| !child.leaving && child.role == *role);
        let helpers = (0..helpers).filter(|place| !self.done.contains(place)).map(Role::Helper);
        (0..workers).map(Role::Worker).chain(helpers).find(|role| !is_filled(role))
    }

    /// A slot in the zones for one more, among those of a master whose slots begin at `first`.
    pub fn slot(&self, first: usize) -> usize {
        choose_slot(first, self.list.iter().map(|child| child.slot))
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

    #[test]
    fn roles_are_filled_in_order_and_again_when_somebody_leaves() {
        let mut children = Children::default();
        for (pid, expected) in [(1, Role::Worker(0)), (2, Role::Worker(1)), (3, Role::Helper(0)), (4, Role::Helper(1))]
        {
            assert_eq!(children.missing(2, 2), Some(expected));
            children.add(child(pid, expected));
        }
        assert_eq!(children.missing(2, 2), None);
        assert_eq!(children.missing(1, 0), None);
        assert!(children.remove(Pid::from_raw(1)).is_some() && children.remove(Pid::from_raw(9)).is_none());
        assert_eq!(children.missing(2, 2), Some(Role::Worker(0)));
        children.add(child(5, Role::Worker(0)));
        // One that has done its work is not missed until there is a new generation.
        children.remove(Pid::from_raw(3));
        children.is_done(0);
        assert_eq!(children.missing(2, 2), None);
        children.begin();
        assert_eq!(children.missing(2, 2), Some(Role::Helper(0)));
        assert_eq!(children.dismiss().len(), 3);
        assert!(children.dismiss().is_empty() && !children.is_empty());
        assert_eq!(children.missing(2, 2), Some(Role::Worker(0)));
    }
}
