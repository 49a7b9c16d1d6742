//! The zones of a generation: declared by name, and found again by the next one.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Need, SMALLEST, Zone};
use crate::conf::{ConfigError, Place};

/// The zones of a generation.
#[derive(Default)]
pub struct Zones {
    /// Later loads of this process have higher numbers than those that were taken into use before them.
    load: u64,
    list: RefCell<Vec<(Rc<Zone>, Place)>>,
    /// The names that the configuration gives to zones, and what for.
    claims: RefCell<Vec<(String, String, Place)>>,
    previous: Vec<Rc<Zone>>,
}

impl Zones {
    /// No zones yet; those of `previous`, which is in use, are found again under the same name and size. What a load
    /// since then that was given up has added to them is taken back.
    pub fn after(previous: Option<&Zones>) -> Zones {
        let load = previous.map_or(0, |zones| zones.load.saturating_add(1));
        let previous = previous.map(Zones::all).unwrap_or_default();
        previous.iter().for_each(|zone| zone.take_back());
        Zones { load, list: RefCell::default(), claims: RefCell::default(), previous }
    }

    /// No zones yet; these, which another process has left us, are found again under the same name and size.
    pub fn after_upgrade(inherited: Vec<Rc<Zone>>) -> Zones {
        Zones { load: 0, list: RefCell::default(), claims: RefCell::default(), previous: inherited }
    }

    /// The zone of this name. Several users may share one; `size` may be left out by all but one of them.
    ///
    /// # Errors
    /// A size below the least, sizes that disagree, or no memory.
    pub fn declare(&self, name: &str, size: Option<u64>, at: &Place) -> Result<Rc<Zone>, ConfigError> {
        let fail = |message: String| Err(ConfigError::new(at, message));
        if let Some((zone, first)) = self.declared(name) {
            return match size {
                Some(size) if size != zone.size => fail(format!(
                    "the size {size} of shared memory zone \"{name}\" conflicts with already declared size {} at {first}",
                    zone.size
                )),
                _ => Ok(zone),
            };
        }
        let Some(size) = size else { return fail(format!("zone \"{name}\" is not declared with a size")) };
        if size < SMALLEST {
            return fail(format!("zone \"{name}\" is too small, it needs at least {SMALLEST} bytes"));
        }
        match self.previous.iter().find(|zone| zone.name == name && zone.size == size) {
            Some(zone) => Ok(self.take(zone.again(), at)),
            None => self.begin(name, size, at),
        }
    }

    /// Says that the configuration has a zone of this name for users of one kind, whether or not there are any.
    ///
    /// # Errors
    /// It has one for users of another kind.
    pub fn claim(&self, name: &str, kind: &str, at: &Place) -> Result<(), ConfigError> {
        let mut claims = self.claims.borrow_mut();
        match claims.iter().find(|(known, ..)| known == name) {
            Some((_, other, first)) if other != kind => {
                let message = format!(
                    "the shared memory zone \"{name}\" is already declared for a different use, {other}, at {first}"
                );
                Err(ConfigError::new(at, message))
            }
            Some(_) => Ok(()),
            None => {
                claims.push((name.to_owned(), kind.to_owned(), at.clone()));
                Ok(())
            }
        }
    }

    /// The zone of this name for all users of one kind, with room for the regions that they need. If there is no room left
    /// in that of the generation before, or if that was of another kind, the zone is begun anew: workers of that
    /// generation keep theirs. nginx begins the zones of upstreams anew whenever it reads its configuration.
    ///
    /// # Errors
    /// Those of [`Zones::declare`], users of another kind, and a zone that would be too small if it were empty.
    pub fn declare_for(
        &self,
        kind: &str,
        (name, size, at): (&str, Option<u64>, &Place),
        needs: &[Need],
    ) -> Result<Rc<Zone>, ConfigError> {
        self.claim(name, kind, at)?;
        let is_new = self.declared(name).is_none();
        let mut zone = self.declare(name, size, at)?;
        let same_kind = zone.purpose.borrow().as_ref().is_none_or(|other| other == kind);
        let room = |zone: &Zone| zone.exclusively(|| zone.room_for(needs));
        if is_new && (!same_kind || room(&zone).is_err()) {
            self.list.borrow_mut().retain(|(other, _)| !Rc::ptr_eq(other, &zone));
            let was_used = self.previous.iter().any(|other| Rc::ptr_eq(&other.body, &zone.body));
            zone = self.begin(name, zone.size, at)?;
            if was_used && room(&zone).is_ok() {
                tell_of_lost_state(
                    name,
                    if same_kind { "has no room for the new configuration" } else { "was in other use" },
                );
            }
        }
        room(&zone).map_err(|message| ConfigError::new(at, message))?;
        zone.purpose.replace(Some(kind.to_owned()));
        Ok(zone)
    }

    fn declared(&self, name: &str) -> Option<(Rc<Zone>, Place)> {
        self.list.borrow().iter().find(|(zone, _)| zone.name == name).cloned()
    }

    fn begin(&self, name: &str, size: u64, at: &Place) -> Result<Rc<Zone>, ConfigError> {
        match Zone::create(name, size) {
            Ok(zone) => Ok(self.take(zone, at)),
            Err(error) => Err(ConfigError::new(
                at,
                format!("zone \"{name}\" of {size} bytes cannot be made ({})", crate::log::os_error(&error)),
            )),
        }
    }

    fn take(&self, zone: Zone, at: &Place) -> Rc<Zone> {
        let zone = Rc::new(Zone { load: self.load, ..zone });
        self.list.borrow_mut().push((zone.clone(), at.clone()));
        zone
    }

    /// Releases every lock that `pid`, which has died, still holds. Returns the zones concerned.
    pub fn release(&self, pid: u32) -> Vec<String> {
        self.list.borrow().iter().filter(|(zone, _)| zone.release(pid)).map(|(zone, _)| zone.name.clone()).collect()
    }

    /// Every zone.
    pub fn all(&self) -> Vec<Rc<Zone>> {
        self.list.borrow().iter().map(|(zone, _)| zone.clone()).collect()
    }
}

fn tell_of_lost_state(name: &str, why: &str) {
    crate::log::process::of_process(|log| {
        crate::log!(
            log,
            Notice,
            "shared memory zone \"{name}\" {why}: new workers begin it anew, and its state is lost"
        );
    });
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::zone::always_sound;

    fn place() -> Place {
        Place { file: "f".into(), line: 3, column: 1 }
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let zones = Zones::default();
        assert!(zones.declare("z", Some(64 << 10), &place()).is_ok());
        assert!(zones.declare("z", None, &place()).is_ok());
        for (name, size, expected) in
            [("z", Some(65 << 10), "conflicts"), ("y", Some(100), "too small"), ("x", None, "not declared")]
        {
            let error = zones.declare(name, size, &place()).err().unwrap().to_string();
            assert!(error.contains(expected) && error.ends_with("in f:3"), "{error}");
        }
        let zone = zones.declare("z", None, &place()).unwrap();
        assert!(zone.region("big", 1 << 20, always_sound).is_err());
    }

    #[test]
    fn what_a_load_that_was_given_up_has_added_is_taken_back() {
        let zones = Zones::default();
        let zone = zones.declare("z", Some(SMALLEST), &place()).unwrap();
        zone.region("a", 10, always_sound).unwrap().words()[0].store(7, Relaxed);
        for turn in 0..100 {
            let given_up = Zones::after(Some(&zones)).declare("z", Some(SMALLEST), &place()).unwrap();
            for key in ["b", "c"] {
                // Half of the zone each: there is room for one turn only.
                let region = given_up.region(key, 1900 + turn, always_sound).unwrap();
                assert!(region.words().iter().all(|word| word.load(Relaxed) == 0), "begins as zeroes");
                region.words().iter().for_each(|word| word.store(u64::MAX, Relaxed));
            }
            assert_eq!(given_up.region("a", 10, always_sound).unwrap().words()[0].load(Relaxed), 7);
        }
        // One that is taken into use keeps what it has added.
        let next = Zones::after(Some(&zones));
        let region = next.declare("z", Some(SMALLEST), &place()).unwrap().region("b", 1900, always_sound).unwrap();
        region.words()[0].store(8, Relaxed);
        let given_up = Zones::after(Some(&next)).declare("z", Some(SMALLEST), &place()).unwrap();
        given_up.region("c", 1900, always_sound).unwrap();
        let last = Zones::after(Some(&next)).declare("z", Some(SMALLEST), &place()).unwrap();
        assert_eq!(last.region("b", 1900, always_sound).unwrap().words()[0].load(Relaxed), 8);
        assert!(last.region("d", 1901, always_sound).is_ok());
        assert_eq!(last.number(3), 3);
    }

    #[test]
    fn what_another_process_has_seen_is_not_taken_back() {
        for comes_first in [true, false] {
            let zones = Zones::default();
            let zone = zones.declare("z", Some(SMALLEST), &place()).unwrap();
            zone.region("a", 10, always_sound).unwrap();
            let file = zone.as_fd().try_clone_to_owned().unwrap();
            let other = Zones::after_upgrade(vec![Zone::adopt("z", file).unwrap()]);
            let other = other.declare("z", Some(SMALLEST), &place()).unwrap();
            let given_up = Zones::after(Some(&zones)).declare("z", Some(SMALLEST), &place()).unwrap();
            if comes_first {
                other.region("a", 10, always_sound).unwrap();
            }
            given_up.region("b", 10, always_sound).unwrap();
            other.region("b", 10, always_sound).unwrap().words()[0].store(7, Relaxed);
            // Coming back changes nothing.
            given_up.region("c", 10, always_sound).unwrap();
            let _ = Zones::after(Some(&zones));
            assert_eq!(other.number(3), 3);
            assert_eq!(other.region("b", 10, always_sound).unwrap().words()[0].load(Relaxed), 7);
        }
    }

    #[test]
    fn a_zone_without_room_is_begun_anew_for_all_of_its_users() {
        let declare =
            |zones: &Zones, kind: &str, needs: &[Need]| zones.declare_for(kind, ("z", Some(SMALLEST), &place()), needs);
        let needs = |last: usize| [Need::region("a", 1000), Need::region("b", last)];
        let zones = Zones::default();
        let old = declare(&zones, "x", &needs(2000)).unwrap();
        let (a, b) = (old.region("a", 1000, always_sound).unwrap(), old.region("b", 2000, always_sound).unwrap());
        a.words()[0].store(7, Relaxed);
        b.words()[0].store(7, Relaxed);

        let fits = Zones::after(Some(&zones));
        let same = declare(&fits, "x", &needs(1000)).unwrap();
        assert_eq!(same.region("a", 1000, always_sound).unwrap().words()[0].load(Relaxed), 7);
        same.region("b", 1000, always_sound).unwrap();

        let next = Zones::after(Some(&fits));
        let new = declare(&next, "x", &needs(1001)).unwrap();
        assert!(Rc::ptr_eq(&new, &next.declare("z", None, &place()).unwrap()));
        assert_eq!(next.all().len(), 1);
        for (key, words) in [("a", 1000), ("b", 1001)] {
            let region = new.region(key, words, always_sound).unwrap();
            region.words().iter().for_each(|word| assert_eq!(word.swap(9, Relaxed), 0));
        }
        assert_eq!((a.words()[0].load(Relaxed), b.words()[0].load(Relaxed)), (7, 7), "old workers keep theirs");

        let error = declare(&Zones::after(Some(&next)), "x", &needs(4000)).err().unwrap().to_string();
        assert_eq!(error, "zone \"z\" is too small: 7232 bytes more are needed in f:3");
        let error = declare(&next, "y", &needs(1)).err().unwrap().to_string();
        assert!(error.contains("already declared for a different use, x, at f:3 in f:3"), "{error}");
        let other = declare(&Zones::after(Some(&next)), "y", &needs(1001)).unwrap();
        assert_eq!(other.region("a", 1000, always_sound).unwrap().words()[0].load(Relaxed), 0);
    }
}
