//! Guards and queries, answered from the indexes.
//!
//! A query is a union of intersections: one of these names and all of these tags. SQLite's planner does not know
//! how rare a tag is, and may scan every event of a common one. Here each name and each tag is a sorted list of
//! positions that can be searched from any position (a leapfrog join). An intersection costs in proportion to its
//! rarest list, however long the others are.

use cqrs_core::id::{Position, Version};
use cqrs_core::store::{Conflict, Expected, Found, Guard, Query, QueryItem};
use rusqlite::Connection;

use crate::append::Tx;
use crate::error::Fault;

/// Checks a guard against the log, including what this transaction has written.
pub(crate) fn check(tx: &mut Tx<'_>, guard: &Guard) -> Result<Result<(), Conflict>, Fault> {
    let found = match guard {
        Guard::Any => None,
        Guard::All(all) => return check_all(tx, all),
        Guard::Stream { stream, expected } => {
            let last = tx.last_of(stream)?;
            let version = Version::new(last.number.cast_unsigned());
            let holds = match expected {
                Expected::Event(_, id) => expected.holds(version) && last.id == Some(*id),
                _ => expected.holds(version),
            };
            (!holds).then_some(Found::Version(version))
        }
        Guard::Unchanged { query, after } => match after.agrees(tx.id_at(after.position)?) {
            true => last_match(tx, query, after.position)?.map(Found::Position),
            false => Some(Found::Position(after.position)),
        },
        Guard::Absent(query) => last_match(tx, query, Position::START)?.map(Found::Position),
    };
    Ok(found.map_or(Ok(()), |found| Err(Conflict { clause: guard.clone(), found })))
}

fn check_all(tx: &mut Tx<'_>, all: &[Guard]) -> Result<Result<(), Conflict>, Fault> {
    for guard in all {
        if let Err(conflict) = check(tx, guard)? {
            return Ok(Err(conflict));
        }
    }
    Ok(Ok(()))
}

/// Returns the position of the last matching event after `after`.
fn last_match(tx: &Tx<'_>, query: &Query, after: Position) -> Result<Option<Position>, Fault> {
    let after = number(after);
    let mut found = Matches::backward(query, after, tx.head);
    let last = found.next(tx.conn)?;
    Ok(last.map(|position| Position::new(position.cast_unsigned())))
}

/// Converts a position to SQLite's signed integer. Larger values become the largest, which no event reaches.
pub(crate) fn number(position: Position) -> i64 {
    i64::try_from(position.get()).unwrap_or(i64::MAX)
}

/// An iterator over the positions of the events that match a query.
///
/// It searches ascending keys in both directions. The key of a position is the position itself when iterating
/// forward, and its negative when iterating backward.
pub(crate) struct Matches<'q> {
    /// `None` if every event matches.
    items: Option<Vec<Item<'q>>>,
    direction: Direction,
    key: i64,
    last: i64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

impl<'q> Matches<'q> {
    /// Iterates from the first match after `after` to `end`, inclusive. `end` must not be past the head.
    pub(crate) fn forward(query: &'q Query, after: i64, end: i64) -> Self {
        Self::new(query, Direction::Forward, after.saturating_add(1), end)
    }

    /// Iterates over the same positions in reverse order.
    fn backward(query: &'q Query, after: i64, end: i64) -> Self {
        Self::new(query, Direction::Backward, -end, -after.saturating_add(1))
    }

    fn new(query: &'q Query, direction: Direction, key: i64, last: i64) -> Self {
        let items = query.items().map(|items| items.iter().map(|item| Item::new(item, direction)).collect());
        Self { items, direction, key, last }
    }

    pub(crate) fn next(&mut self, conn: &Connection) -> Result<Option<i64>, Fault> {
        if self.key > self.last {
            return Ok(None);
        }
        let found = match &mut self.items {
            // Positions have no gaps.
            None => Some(self.key),
            Some(items) => least(items, |item| item.seek(conn, self.key, self.last))?,
        };
        // There is no key past `i64::MAX`. Without a match, the iteration ends.
        self.key = found.map_or(i64::MAX, |key| key.saturating_add(1));
        self.last = found.map_or(i64::MIN, |_| self.last);
        Ok(found.map(|key| if self.direction == Direction::Forward { key } else { -key }))
    }
}

/// Returns the smallest key that `of` returns for any of the elements.
fn least<T>(
    all: &mut [T],
    mut of: impl FnMut(&mut T) -> Result<Option<i64>, Fault>,
) -> Result<Option<i64>, Fault> {
    let mut least: Option<i64> = None;
    for one in all {
        if let Some(key) = of(one)? {
            least = Some(least.map_or(key, |least| least.min(key)));
        }
    }
    Ok(least)
}

/// One item of a query: any of these names, and all of these tags.
struct Item<'q> {
    names: Vec<Postings<'q>>,
    tags: Vec<Postings<'q>>,
}

impl<'q> Item<'q> {
    fn new(item: &'q QueryItem, direction: Direction) -> Self {
        let (of_name, of_tag) = match direction {
            Direction::Forward => (OF_NAME, OF_TAG),
            Direction::Backward => (OF_NAME_BACKWARD, OF_TAG_BACKWARD),
        };
        let names = item.names.iter().map(|name| Postings::new(of_name, name)).collect();
        let tags = item.tags.iter().map(|tag| Postings::new(of_tag, tag.as_str())).collect();
        Self { names, tags }
    }

    /// Returns the first key at or after `key` that is in the intersection.
    fn seek(&mut self, conn: &Connection, mut key: i64, last: i64) -> Result<Option<i64>, Fault> {
        'leap: while key <= last {
            if !self.names.is_empty() {
                match least(&mut self.names, |name| name.seek(conn, key, last))? {
                    None => return Ok(None),
                    Some(found) => key = found,
                }
            }
            for tag in &mut self.tags {
                match tag.seek(conn, key, last)? {
                    None => return Ok(None),
                    Some(found) if found > key => {
                        key = found;
                        continue 'leap;
                    }
                    Some(_) => {}
                }
            }
            return Ok(Some(key));
        }
        Ok(None)
    }
}

// `INDEXED BY` makes the statement fail if the planner would sort the log instead.
const OF_NAME: &str = "SELECT position FROM cqrs_events INDEXED BY cqrs_events_by_name
    WHERE name = ?1 AND position BETWEEN ?2 AND ?3 ORDER BY position LIMIT ?4";
const OF_NAME_BACKWARD: &str = "SELECT -position FROM cqrs_events INDEXED BY cqrs_events_by_name
    WHERE name = ?1 AND position BETWEEN -?3 AND -?2 ORDER BY position DESC LIMIT ?4";
const OF_TAG: &str = "SELECT position FROM cqrs_tags
    WHERE tag = ?1 AND position BETWEEN ?2 AND ?3 ORDER BY position LIMIT ?4";
const OF_TAG_BACKWARD: &str = "SELECT -position FROM cqrs_tags
    WHERE tag = ?1 AND position BETWEEN -?3 AND -?2 ORDER BY position DESC LIMIT ?4";

/// The positions of the events with one name or one tag, fetched in batches.
struct Postings<'q> {
    sql: &'static str,
    value: &'q str,
    /// The fetched keys, ascending.
    fetched: Vec<i64>,
    /// Index of the first fetched key that was not skipped.
    next: usize,
    /// Number of fetched keys that were used.
    used: usize,
    /// The batch size.
    batch: usize,
    /// Set when no keys follow the fetched ones.
    ended: bool,
    /// Total number of fetched rows.
    #[cfg(test)]
    rows: usize,
}

const LARGEST_BATCH: usize = 1_024;

impl<'q> Postings<'q> {
    fn new(sql: &'static str, value: &'q str) -> Self {
        Self {
            sql,
            value,
            fetched: Vec::new(),
            next: 0,
            used: 0,
            batch: 1,
            ended: false,
            #[cfg(test)]
            rows: 0,
        }
    }

    /// Returns the first key at or after `key`. Successive calls must not decrease `key`.
    fn seek(&mut self, conn: &Connection, key: i64, last: i64) -> Result<Option<i64>, Fault> {
        let passed = self.fetched.get(self.next..).unwrap_or_default().partition_point(|one| *one < key);
        self.next += passed;
        if self.next >= self.fetched.len() && !self.ended {
            self.fetch(conn, key, last)?;
        }
        self.used += usize::from(passed > 0);
        Ok(self.fetched.get(self.next).copied())
    }

    fn fetch(&mut self, conn: &Connection, key: i64, last: i64) -> Result<(), Fault> {
        // Start small: most guards only need to know whether there is a match. The batch grows for a caller that
        // uses every key, and resets to 1 for one that skips most of them.
        let taken = self.used * 2 >= self.fetched.len();
        self.batch = if taken { (self.batch * 4).min(LARGEST_BATCH) } else { 1 };
        let mut statement = conn.prepare_cached(self.sql)?;
        let rows = statement.query_map((self.value, key, last, self.batch as i64), |row| row.get(0))?;
        self.fetched.clear();
        for row in rows {
            self.fetched.push(row?);
        }
        #[cfg(test)]
        {
            self.rows += self.fetched.len();
        }
        (self.next, self.used) = (0, 1);
        self.ended = self.fetched.len() < self.batch;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cqrs_core::event::Tag;
    use rusqlite::Connection;

    use super::*;

    /// A log in which every event has a common tag, every hundredth a rare one, and names alternate.
    fn log(events: i64) -> rusqlite::Result<Connection> {
        let conn = Connection::open_in_memory()?;
        crate::schema::prepare(&conn).map_err(|_| rusqlite::Error::InvalidQuery)?;
        for position in 1..=events {
            let name = ["Odd", "Even"][usize::from(position % 2 == 0)];
            conn.execute(
                "INSERT INTO cqrs_events VALUES (?1, ?1, 1, 0, 0, randomblob(16), 'A/1', ?2, NULL, NULL, x'')",
                (position, name),
            )?;
            conn.execute("INSERT INTO cqrs_tags VALUES ('all:1', ?1)", (position,))?;
            if position % 100 == 0 {
                conn.execute("INSERT INTO cqrs_tags VALUES ('rare:1', ?1)", (position,))?;
            }
        }
        Ok(conn)
    }

    fn query(names: &[&'static str], tags: &[&str]) -> Query {
        let names = names.iter().map(|name| (*name).into()).collect();
        Query::any_of([QueryItem { names, tags: tags.iter().map(|tag| Tag::from(*tag)).collect() }])
    }

    /// Returns the positions, and how many rows were fetched.
    fn walk(conn: &Connection, mut matches: Matches<'_>) -> (Vec<i64>, usize) {
        let mut positions = Vec::new();
        while let Ok(Some(position)) = matches.next(conn) {
            positions.push(position);
        }
        let items = matches.items.iter().flatten();
        (positions, items.flat_map(|item| item.names.iter().chain(&item.tags)).map(|list| list.rows).sum())
    }

    #[test]
    fn an_intersection_costs_what_its_rarest_list_costs() -> rusqlite::Result<()> {
        let conn = log(5_000)?;
        let rare: Vec<i64> = (1..=50).map(|number| number * 100).collect();
        for tags in [["all:1", "rare:1"], ["rare:1", "all:1"]] {
            for names in [&[][..], &["Even"], &["Even", "Odd"]] {
                let query = query(names, &tags);
                let (found, rows) = walk(&conn, Matches::forward(&query, 0, 5_000));
                assert_eq!(found, rare);
                assert!(rows < 1_500, "{rows} rows for 50 events with {query}");
                let (found, rows) = walk(&conn, Matches::backward(&query, 0, 5_000));
                assert!(found.iter().eq(rare.iter().rev()));
                assert!(rows < 1_500, "{rows} rows for 50 events with {query}, backward");
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_not_there_costs_next_to_nothing() -> rusqlite::Result<()> {
        let conn = log(5_000)?;
        for query in
            [query(&["Odd"], &["rare:1"]), query(&[], &["all:1", "none:1"]), query(&["None"], &["all:1"])]
        {
            let (found, rows) = walk(&conn, Matches::forward(&query, 4_900, 5_000));
            assert!(found.is_empty() && rows < 20, "{rows} rows for {query}");
        }
        Ok(())
    }

    #[test]
    fn a_union_gives_each_once_and_in_order() -> rusqlite::Result<()> {
        let conn = log(300)?;
        let items = [query(&["Odd"], &[]), query(&[], &["rare:1"]), query(&["Even"], &["all:1"])];
        let query = Query::any_of(items.iter().flat_map(|query| query.items().unwrap_or_default().to_vec()));
        assert!(walk(&conn, Matches::forward(&query, 10, 290)).0.into_iter().eq(11..=290));
        assert!(walk(&conn, Matches::backward(&query, 10, 290)).0.into_iter().eq((11..=290).rev()));
        Ok(())
    }

    #[test]
    fn each_list_is_read_from_its_index() -> rusqlite::Result<()> {
        let conn = log(1)?;
        for sql in [OF_NAME, OF_NAME_BACKWARD, OF_TAG, OF_TAG_BACKWARD] {
            let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
            let steps = plan.query_map(("x", 1, 2, 3), |row| row.get::<_, String>(3))?;
            let steps = steps.collect::<Result<Vec<_>, _>>()?;
            assert!(steps.len() == 1 && steps[0].starts_with("SEARCH"), "{sql}: {steps:?}");
        }
        Ok(())
    }
}
