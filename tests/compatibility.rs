//! docs/COMPATIBILITY.md says what the directive tables say. `UPDATE_DOCS=1 cargo test --test compatibility` rewrites it.

use std::collections::BTreeMap;
use std::fmt::Write;

use tidegate_core::conf::apply::Row;
use tidegate_core::conf::known::Known;
use tidegate_core::process::Domain;
use tidegate_core::process::generation::core_tables;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/COMPATIBILITY.md");
const BEGIN: &str = "<!-- generated from the directive tables: see tests/compatibility.rs -->\n";
const END: &str = "<!-- end of what is generated -->\n";

/// Rows by area and name; a directive may have several, for several kinds of block.
fn tables() -> BTreeMap<(&'static str, &'static str), Vec<Row>> {
    let protocols: [Box<dyn Domain>; 3] =
        [Box::new(tidegate_http::Http::new()), Box::new(tidegate_stream::Stream), Box::new(tidegate_mail::Mail)];
    let mut tables: BTreeMap<_, Vec<Row>> = BTreeMap::new();
    for row in core_tables().rows() {
        tables.entry(("core", row.name)).or_default().push(row);
    }
    for protocol in &protocols {
        for row in protocol.rows() {
            tables.entry((protocol.name(), row.name)).or_default().push(row);
        }
    }
    tables
}

/// Where a directive may stand; what the core shares with the protocols is listed with them.
fn places(area: &str, row: &Row) -> String {
    let names = row.levels.names(area);
    let own = |name: &&String| area != "core" || ["main", "events"].contains(&name.as_str());
    names.iter().filter(own).cloned().collect::<Vec<_>>().join(", ")
}

fn generated() -> String {
    let tables = tables();
    let known = Known::parse(include_str!("../src/known_directives.tsv"));
    let blocks = ["http", "stream", "mail", "include"];
    let mut out = String::new();
    for area in ["core", "http", "stream", "mail"] {
        let has = tables.iter().filter(|((its, _), _)| *its == area);
        let all = known.rows().filter(|(its, name)| *its == area && !blocks.contains(name)).count();
        let missing: Vec<&str> = known
            .rows()
            .filter(|(its, name)| *its == area && !blocks.contains(name) && !tables.contains_key(&(area, *name)))
            .map(|(_, name)| name)
            .collect();
        let _ = writeln!(
            out,
            "\n### {area}: {} of nginx's {all}\n\n| directive | where | arguments | effect |\n|---|---|---|---|",
            all - missing.len()
        );
        for ((_, name), rows) in has {
            for row in rows {
                let effect =
                    if row.accepted { format!("accepted, no effect: {}", row.doc) } else { row.doc.to_owned() };
                let own = if known.contains(area, name) { "" } else { " (not in nginx)" };
                let _ = writeln!(
                    out,
                    "| `{name}`{own} | {} | {} | {} |",
                    places(area, row),
                    row.arity,
                    effect.replace('|', "\\|")
                );
            }
        }
        let _ = writeln!(
            out,
            "\nKnown to nginx, an error here until supported: {}.",
            missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        );
    }
    out
}

#[test]
fn the_page_is_what_the_tables_say() {
    let page = std::fs::read_to_string(FILE).expect("docs/COMPATIBILITY.md");
    let (before, rest) = page.split_once(BEGIN).expect("the begin mark");
    let (_, after) = rest.split_once(END).expect("the end mark");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", generated());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(FILE, &wanted).expect("docs/COMPATIBILITY.md can be written");
    } else {
        assert!(page == wanted, "docs/COMPATIBILITY.md is out of date: UPDATE_DOCS=1 cargo test --test compatibility");
    }
}

#[test]
fn every_directive_is_documented() {
    for ((area, name), rows) in tables() {
        for row in rows {
            assert!(row.doc.len() > 10 && row.doc.ends_with('.'), "{area} {name}: {:?}", row.doc);
        }
    }
}
