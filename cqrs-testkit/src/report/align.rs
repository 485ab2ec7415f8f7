//! Aligns two lists, so that equal parts share a row.

/// A row of two lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pair {
    /// Both lists have it.
    Both(usize, usize),
    /// Only the left list has it.
    Left(usize),
    /// Only the right list has it.
    Right(usize),
}

/// Maximum size of the comparison table. Larger lists are printed one after the other.
const CELLS: usize = 4_000_000;

/// Aligns two lists of `n` and `m` parts, so that as many equal parts as possible share a row and both lists keep their
/// order.
pub(crate) fn align(n: usize, m: usize, same: &dyn Fn(usize, usize) -> bool) -> Vec<Pair> {
    let head = (0..n.min(m)).take_while(|&at| same(at, at)).count();
    let rest = n.min(m) - head;
    let tail = (0..rest).take_while(|&back| same(n - 1 - back, m - 1 - back)).count();
    let mut pairs: Vec<Pair> = (0..head).map(|at| Pair::Both(at, at)).collect();
    middle(head..n - tail, head..m - tail, same, &mut pairs);
    pairs.extend((0..tail).map(|at| Pair::Both(n - tail + at, m - tail + at)));
    pairs
}

type Span = std::ops::Range<usize>;

fn middle(left: Span, right: Span, same: &dyn Fn(usize, usize) -> bool, pairs: &mut Vec<Pair>) {
    if left.len().saturating_mul(right.len()) > CELLS {
        pairs.extend(left.map(Pair::Left));
        pairs.extend(right.map(Pair::Right));
        return;
    }
    let longest = common(&left, &right, same);
    let (mut i, mut j) = (0, 0);
    while i < left.len() || j < right.len() {
        let (l, r) = (left.start + i, right.start + j);
        if i < left.len() && j < right.len() && same(l, r) {
            pairs.push(Pair::Both(l, r));
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && longest[i + 1][j] >= longest[i][j + 1]) {
            pairs.push(Pair::Left(l));
            i += 1;
        } else {
            pairs.push(Pair::Right(r));
            j += 1;
        }
    }
}

/// Computes, for each pair of starting points, the length of the longest common subsequence of the rests.
fn common(left: &Span, right: &Span, same: &dyn Fn(usize, usize) -> bool) -> Vec<Vec<u32>> {
    let mut longest = vec![vec![0; right.len() + 1]; left.len() + 1];
    for i in (0..left.len()).rev() {
        for j in (0..right.len()).rev() {
            longest[i][j] = if same(left.start + i, right.start + j) {
                longest[i + 1][j + 1] + 1
            } else {
                longest[i + 1][j].max(longest[i][j + 1])
            };
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(left: &str, right: &str, expected: &str) {
        let (l, r) = (left.as_bytes(), right.as_bytes());
        let show = |pair: &Pair| match *pair {
            Pair::Both(i, _) => char::from(l[i]).to_string(),
            Pair::Left(i) => format!("-{}", char::from(l[i])),
            Pair::Right(j) => format!("+{}", char::from(r[j])),
        };
        let rows: String = align(l.len(), r.len(), &|i, j| l[i] == r[j]).iter().map(show).collect();
        assert_eq!(rows, expected);
    }

    #[test]
    fn keeps_what_both_have() {
        check("", "", "");
        check("abc", "abc", "abc");
        check("abc", "", "-a-b-c");
        check("", "ab", "+a+b");
        check("abc", "ac", "a-bc");
        check("ac", "abc", "a+bc");
        check("ab", "ba", "-ab+a");
        check("xabcy", "zabcw", "-x+zabc-y+w");
    }
}
