//! `docs/OPERATIONS.md` is run as it stands: every command of its `console` blocks, in one shell, must print what is shown.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tidegate_conformance::peers::find;
use tidegate_conformance::server::{signal_to, skip_on_nginx};
use tidegate_conformance::{Port, binary, processes};

/// A command and the lines that it should print.
struct Step {
    command: String,
    expected: Vec<String>,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            inside = !inside && language == "console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { command: command.to_owned(), expected: Vec::new() });
        } else if let Some(more) = line.strip_prefix('>').map(|more| more.strip_prefix(' ').unwrap_or(more)) {
            let step = steps.last_mut().expect("a command before its continuation");
            step.command += "\n";
            step.command += more;
        } else {
            steps.last_mut().expect("a command before its output").expected.push(line.to_owned());
        }
    }
    steps
}

/// Whether a line is as shown; `...` stands for anything.
fn fits(shown: &str, line: &str) -> bool {
    let mut rest = line;
    let parts: Vec<&str> = shown.split("...").collect();
    for (at, part) in parts.iter().enumerate() {
        let found = if at == 0 { rest.starts_with(part).then_some(0) } else { rest.find(part) };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty() || shown.ends_with("...")
}

/// Whether all lines are as shown; a line of `...` alone stands for any number of lines.
fn all_fit(shown: &[String], lines: &[&str]) -> bool {
    match (shown.split_first(), lines.split_first()) {
        (None, None) => true,
        (Some((first, more)), _) if first == "..." => {
            all_fit(more, lines) || lines.split_first().is_some_and(|(_, lines)| all_fit(shown, lines))
        }
        (Some((first, more)), Some((line, lines))) => fits(first, line) && all_fit(more, lines),
        _ => false,
    }
}

#[test]
fn the_operations_page_says_what_happens() {
    if skip_on_nginx("the page is about tidegate") {
        return;
    }
    if find("curl").is_none() || find("pgrep").is_none() {
        println!("skipped: needs curl and pgrep");
        return;
    }
    let port = Port::claim();
    let page = fs::read_to_string(binary::workspace().join("docs/OPERATIONS.md")).unwrap();
    let page = page.replace("127.0.0.1:8080", &port.address().to_string());
    let steps = steps(&page);
    assert!(steps.len() > 40, "{}", steps.len());

    let folder = tempfile::tempdir().unwrap();
    // Workers that have given up root open the logs by name.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let programs = folder.path().join("bin");
    fs::create_dir(&programs).unwrap();
    symlink(binary::path(), programs.join("tidegate")).unwrap();
    const MARK: &str = "--- step";
    let script: String =
        steps.iter().map(|step| format!("{}\necho; echo '{MARK}'\n", step.command)).collect::<Vec<_>>().concat();
    fs::write(folder.path().join("script"), script).unwrap();
    processes::adopt_orphans();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let output = || fs::File::options().create(true).append(true).open(folder.path().join("output")).unwrap();
    let mut shell = Command::new("timeout")
        .args(["60", "sh", "script"])
        .current_dir(folder.path())
        .env("PATH", path)
        .stdin(Stdio::null())
        .stdout(output())
        .stderr(output())
        .process_group(0)
        .spawn()
        .unwrap();
    let status = shell.wait().unwrap();
    let output = fs::read_to_string(folder.path().join("output")).unwrap();
    let is_here = |pid: i32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(folder.path()));
    let left: Vec<i32> = processes::all().iter().map(|process| process.pid).filter(|pid| is_here(*pid)).collect();
    left.iter().for_each(|pid| signal_to(*pid, Signal::SIGKILL));
    processes::end_family(&mut shell);

    let mark = format!("\n{MARK}\n");
    let mut outputs = output.split(&mark);
    for (number, step) in steps.iter().enumerate() {
        let printed = outputs.next().unwrap_or_else(|| panic!("nothing is printed by step {number}: {}", step.command));
        let printed: Vec<&str> = printed.lines().collect();
        let printed = printed.strip_suffix(&[""]).unwrap_or(&printed);
        assert!(
            all_fit(&step.expected, printed),
            "{}\nshould print {:#?}\nand prints {printed:#?}",
            step.command,
            step.expected
        );
    }
    assert!(status.success(), "{output}");
    assert!(left.is_empty(), "{left:?}");
    println!("{} commands print what the page shows", steps.len());
}
