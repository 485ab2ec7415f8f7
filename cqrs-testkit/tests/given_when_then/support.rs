//! Catches what a failing test says, and where it points to.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, Location};
use std::sync::Once;

use expect_test::Expect;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<(String, u32)>> = const { RefCell::new(None) };
}

/// Runs a test that must fail, compares all that it says, and makes sure that the panic points into
/// the closure: to the user's own lines.
#[track_caller]
pub(crate) fn check<R>(test: impl FnOnce() -> R, expected: &Expect) {
    let said = said(Location::caller(), test);
    expected.assert_eq(&said);
}

/// How many lines the closure of a `check` may have.
const LINES: u32 = 20;

fn said<R>(caller: &Location<'_>, test: impl FnOnce() -> R) -> String {
    listen();
    QUIET.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(test));
    QUIET.set(false);
    let Err(panic) = outcome else { panic!("the test passed, but it should fail") };
    let Some((file, line)) = PLACE.take() else { panic!("the panic has no place") };
    let lines = caller.line()..caller.line() + LINES;
    assert!(file == caller.file() && lines.contains(&line), "points to {file}:{line}, not into {caller}");
    let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    without_lines(&without_colour(&text))
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                return usual(info);
            }
            PLACE.set(info.location().map(|place| (place.file().to_owned(), place.line())));
        }));
    });
}

/// The text as it is where nobody wants colour: tests run on terminals too.
fn without_colour(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}

/// Line numbers would tie the expectations to the layout of the tests.
fn without_lines(text: &str) -> String {
    let plain = |line: &str| match line.split_once("note: given at ") {
        Some((before, place)) => {
            let file = place.rsplit_once(':').map_or(place, |(file, _)| file);
            let file = file.rsplit(['/', '\\']).next().unwrap_or(file);
            format!("{before}note: given at {file}:…")
        }
        None => line.to_owned(),
    };
    text.lines().map(|line| plain(line) + "\n").collect()
}
