//! "Did you mean": names that are nearly right.

/// What to write instead of an unknown name.
pub(crate) fn instead(name: &str, known: &[&str]) -> String {
    match nearest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("it knows {}", list(known)),
    }
}

/// The known name that is nearest, if one is near enough for a slip of the hand.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().filter(|known| is_near(name, known));
    near.min_by_key(|known| distance(name, known)).copied()
}

/// Whether one is a slip of the hand away from the other: a third of its letters. Of names with two
/// letters nearly everything short is near, so there only swapped and repeated letters count.
pub(crate) fn is_near(name: &str, known: &str) -> bool {
    let name = name.to_lowercase();
    if known.len() > 2 {
        return distance(&name, known) <= known.len() / 3;
    }
    let mut once: Vec<char> = name.chars().collect();
    once.dedup();
    once.iter().copied().eq(known.chars()) || name.chars().rev().eq(known.chars())
}

/// `` `a`, `b` and `c` ``.
pub(crate) fn list(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// How many letters must be put in, left out, replaced or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, instead, list};

    #[test]
    fn counts_letters() {
        assert_eq!(distance("handle", "handle"), 0);
        assert_eq!(distance("handel", "handle"), 1);
        assert_eq!(distance("aply", "apply"), 1);
        assert_eq!(distance("", "id"), 2);
    }

    #[test]
    fn is_strict_with_short_names() {
        assert!(super::is_near("onn", "on") && super::is_near("di", "id") && super::is_near("ID", "id"));
        assert!(!super::is_near("op", "on") && !super::is_near("in", "id"));
        assert!(super::is_near("kye", "key") && !super::is_near("by", "key"));
    }

    #[test]
    fn names_the_nearest_or_all() {
        assert_eq!(instead("nmae", &["id", "name"]), "did you mean `name`?");
        assert_eq!(instead("colour", &["id", "name", "error"]), "it knows `id`, `name` and `error`");
        assert_eq!(list(&["id"]), "`id`");
    }
}
