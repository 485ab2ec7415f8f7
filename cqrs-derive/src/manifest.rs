//! Under which name the user's crate has `cqrs`.
//!
//! Cargo lets a dependency be renamed: `es = { package = "cqrs", … }`. Generated code then has to say
//! `::es`, and the compiler tells nobody so. The manifest does.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The name, if it is another one than `cqrs`.
pub(crate) fn renamed() -> Option<&'static str> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    NAME.get_or_init(|| {
        let package = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
        let manifest = read(&package)?;
        // Where the workspace names its dependencies, members take them over by key.
        let mut above = package.ancestors().skip(1).filter_map(read);
        find(&manifest, &above.find(|text| text.contains("[workspace")).unwrap_or_default())
    })
    .as_deref()
}

fn read(dir: &Path) -> Option<String> {
    std::fs::read_to_string(dir.join("Cargo.toml")).ok()
}

/// The key whose package is `cqrs`, unless there is one of that name.
fn find(manifest: &str, workspace: &str) -> Option<String> {
    let shared: HashSet<String> =
        dependencies(workspace).into_iter().filter(|entry| entry.is_cqrs).map(|entry| entry.key).collect();
    let own = dependencies(manifest);
    if own.iter().any(|entry| entry.key == "cqrs") {
        return None;
    }
    let found =
        own.into_iter().find(|entry| entry.is_cqrs || entry.is_inherited && shared.contains(&entry.key))?;
    Some(found.key.replace('-', "_"))
}

/// An entry among the dependencies.
struct Entry {
    key: String,
    is_cqrs: bool,
    is_inherited: bool,
}

/// All entries of all tables of dependencies, one per line or one per table.
fn dependencies(manifest: &str) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    let (mut in_list, mut in_entry) = (false, false);
    for line in manifest.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            in_list = header.ends_with("dependencies");
            in_entry = false;
            if let Some((table, key)) = header.rsplit_once('.')
                && table.ends_with("dependencies")
            {
                in_entry = true;
                all.push(Entry { key: unquoted(key), is_cqrs: false, is_inherited: false });
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        // `es.workspace = true`
        let (key, field) = key.trim().split_once('.').unwrap_or((key.trim(), ""));
        let value: String = value.split_whitespace().collect();
        let entry = if in_list {
            all.push(Entry { key: unquoted(key), is_cqrs: false, is_inherited: false });
            all.last_mut()
        } else {
            all.last_mut().filter(|_| in_entry)
        };
        let Some(entry) = entry else { continue };
        let text = if in_entry { format!("{key}={value}") } else { format!("{field}={value}") };
        entry.is_cqrs |= text.contains("package=\"cqrs\"");
        entry.is_inherited |= text.contains("workspace=true");
    }
    all
}

fn unquoted(key: &str) -> String {
    key.trim().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn finds_the_name_in_the_manifest() {
        let workspace = "[workspace.dependencies]\nes = { package = \"cqrs\", version = \"1\" }";
        for (manifest, name) in [
            ("[dependencies]\ncqrs = \"1\"", None),
            ("[dependencies]\nes = { version = \"1\", package = \"cqrs\" }", Some("es")),
            ("[dependencies]\nevent-store={package=\"cqrs\"} # renamed", Some("event_store")),
            (
                "[dev-dependencies]\nserde = \"1\"\n[dependencies.es]\nversion = \"1\"\npackage = \"cqrs\"",
                Some("es"),
            ),
            ("[target.'cfg(unix)'.dependencies]\nes = { package = \"cqrs\" }", Some("es")),
            ("[dependencies]\nes = { package = \"cqrs\" }\ncqrs = { path = \"..\" }", None),
            ("[dependencies]\nes.workspace = true", Some("es")),
            ("[dependencies]\nes = { workspace = true, features = [] }", Some("es")),
            ("[dependencies]\nother = { package = \"cqrs-sqlite\" }", None),
            ("[package]\nname = \"cqrs\"", None),
        ] {
            assert_eq!(find(manifest, workspace).as_deref(), name, "{manifest}");
        }
    }
}
