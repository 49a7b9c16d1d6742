//! The Test Anything Protocol, as far as a file's verdict needs it.

/// What a test file came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every planned test passed, or is marked TODO, or skipped itself.
    Pass,
    /// Something failed, was missing, or ended badly.
    Fail(String),
    /// The whole file skipped itself.
    Skipped(String),
}

/// Judges a file by its output and by whether it exited with 0.
pub fn judge(output: &str, exited_well: bool) -> Verdict {
    let report = Report::read(output);
    if let Some(reason) = report.bail_out {
        return Verdict::Fail(format!("bailed out: {reason}"));
    }
    if let Some(reason) = report.skip_all {
        return if exited_well { Verdict::Skipped(reason) } else { Verdict::Fail("skipped, but exited badly".into()) };
    }
    if let Some(first) = report.failed.first() {
        return Verdict::Fail(format!("{} of {} failed, first: {first}", report.failed.len(), report.seen));
    }
    match report.planned {
        None => Verdict::Fail("no plan".into()),
        Some(planned) if planned != report.seen => Verdict::Fail(format!("planned {planned}, ran {}", report.seen)),
        Some(_) if !exited_well => Verdict::Fail("exited badly".into()),
        Some(_) => Verdict::Pass,
    }
}

#[derive(Debug, Default)]
struct Report {
    planned: Option<usize>,
    seen: usize,
    failed: Vec<String>,
    skip_all: Option<String>,
    bail_out: Option<String>,
}

impl Report {
    fn read(output: &str) -> Report {
        let mut report = Report::default();
        for line in output.lines() {
            report.line(line);
        }
        report
    }

    fn line(&mut self, line: &str) {
        if let Some(plan) = line.strip_prefix("1..") {
            self.plan(plan);
        } else if let Some(reason) = line.strip_prefix("Bail out!") {
            self.bail_out = Some(reason.trim().to_owned());
        } else if let Some(test) = line.strip_prefix("not ok").filter(|rest| is_test(rest)) {
            self.seen += 1;
            if !directive(test).is_some_and(|directive| directive.starts_with("todo")) {
                self.failed.push(test.trim().to_owned());
            }
        } else if line.strip_prefix("ok").is_some_and(is_test) {
            self.seen += 1;
        }
    }

    fn plan(&mut self, plan: &str) {
        let count = plan.split_whitespace().next().unwrap_or("");
        self.planned = count.parse().ok();
        if self.planned == Some(0) {
            let comment = plan.split_once('#').map_or("", |(_, comment)| comment).trim();
            // The first word is a form of "skip".
            let reason = comment.trim_start_matches(char::is_alphabetic).trim_start_matches(':').trim();
            self.skip_all = Some(reason.to_owned());
        }
    }
}

/// `ok` is a test only when nothing or a space follows: a file may print `okay`.
fn is_test(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with(' ')
}

/// What follows an unescaped `#`, in lower case.
fn directive(test: &str) -> Option<String> {
    let mut escaped = false;
    let at = test.find(|letter| {
        let found = letter == '#' && !escaped;
        escaped = letter == '\\' && !escaped;
        found
    })?;
    Some(test[at + 1..].trim().to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_fail(output: &str) -> bool {
        matches!(judge(output, true), Verdict::Fail(_))
    }

    #[test]
    fn every_planned_test_must_pass() {
        assert_eq!(judge("1..2\nok 1 - a\nok 2 - b\n", true), Verdict::Pass);
        assert_eq!(judge("ok 1\nok 2\n1..2\n", true), Verdict::Pass);
        assert!(is_fail("1..2\nok 1 - a\nnot ok 2 - b\n"));
        assert!(is_fail("1..2\nok 1 - a\n"));
        assert!(is_fail("ok 1\n"));
        assert!(is_fail(""));
    }

    #[test]
    fn an_exit_status_counts() {
        assert!(matches!(judge("1..1\nok 1\n", false), Verdict::Fail(_)));
    }

    #[test]
    fn todo_and_skip_are_no_failures() {
        assert_eq!(judge("1..2\nnot ok 1 - a # TODO later\nok 2 # skip no v6\n", true), Verdict::Pass);
        assert!(is_fail("1..1\nnot ok 1 - escaped \\# TODO\n"));
    }

    #[test]
    fn a_file_may_skip_itself() {
        let expected = Verdict::Skipped("no gd available".into());
        assert_eq!(judge("1..0 # SKIP no gd available\n", true), expected);
        assert_eq!(judge("1..0 # Skipped: no gd available\n", true), expected);
    }

    #[test]
    fn bailing_out_fails() {
        assert!(is_fail("Bail out!  no binary found\n"));
    }
}
