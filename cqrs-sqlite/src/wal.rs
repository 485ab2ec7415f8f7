//! Detects damage to the WAL that SQLite does not report.
//!
//! SQLite reads a WAL up to its last complete transaction. It silently drops everything from the first frame with a
//! wrong checksum, because a crash leaves the same picture: the end of a transaction that was not committed. After a
//! flipped bit or a truncation, it drops commits that were acknowledged. Two checks tell the cases apart before
//! SQLite opens the file:
//!
//! - **Complete transactions after the damage.** With `synchronous=FULL` a transaction is on disk before the next one
//!   starts, so a crash of the process or the machine can only damage the last one. The checksum of a frame continues
//!   from the previous frame. Consecutive frames can therefore be recognized, and leftovers of a transaction that was
//!   rolled back are not mistaken for them.
//! - **The WAL index** (`-shm`) stores the number of the last committed frame. It survives the process and is never
//!   ahead of the synced part of the WAL, so a frame that only the index knows was lost. After a crash of the machine
//!   the index may be missing or older; the check then finds less, and never reports damage that is not there.
//!
//! Two cases are not detected if the index is also missing or older: damage to the very last transaction, and a
//! truncation between two transactions. And if another program writes to the file with less than `synchronous=FULL`, a
//! power failure may lose commits that this check then reports as damage.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use crate::error::Fault;
use crate::file::sibling;

const HEADER_LENGTH: usize = 32;
const FRAME_HEADER_LENGTH: usize = 24;
/// The first four bytes of a WAL. The last bit says that checksums are computed over big-endian words.
const MAGIC: u32 = 0x377f_0682;
/// Length of the index that is read: two copies of its header, and the number of frames already written back.
const INDEX_LENGTH: usize = 100;
const INDEX_HEADER_LENGTH: usize = 48;

/// Fails if the WAL has lost commits.
pub(crate) fn check(database: &Path) -> Result<(), Fault> {
    // SQLite, too, looks for the WAL next to the target of a symbolic link.
    let Ok(database) = database.canonicalize() else { return Ok(()) };
    let mut before = None;
    loop {
        let found = find_damage(&database);
        // While another process writes, one look may see half of a frame. Two looks do not see the same half.
        match found {
            Some(damage) if before.as_ref() == Some(&damage) => return Err(damage.to_fault(&database)),
            None => return Ok(()),
            damage => before = damage,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Damage to a WAL, and the salts of that WAL. SQLite chooses new salts each time it restarts the WAL.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    kind: DamageKind,
    salts: Salts,
}

#[derive(Debug, PartialEq, Eq)]
enum DamageKind {
    /// The WAL does not exist.
    Missing,
    /// The header is not valid.
    Header,
    /// This frame, counted from 1, differs from what was written.
    Frame(u32),
    /// Only the first `frames` of `of` frames are there.
    CutOff { frames: u32, of: u32 },
}

type Salts = [u8; 8];
type Sum = (u32, u32);

impl Damage {
    fn to_fault(&self, database: &Path) -> Fault {
        let wal = sibling(database, "-wal");
        let what = match self.kind {
            DamageKind::Missing => "is missing".to_owned(),
            DamageKind::Header => "is damaged in its header".to_owned(),
            DamageKind::Frame(frame) => format!("is damaged in frame {frame}"),
            DamageKind::CutOff { frames, of } => format!("is truncated after frame {frames} of {of}"),
        };
        Fault::corrupt(format!(
            "the WAL {} {what}, so SQLite would silently drop commits. Restore it from a copy; to continue without \
             those commits, call `SqliteStore::assign_new_log_id`",
            wal.display()
        ))
    }
}

fn find_damage(database: &Path) -> Option<Damage> {
    // Read the index first: the WAL can then only have more frames, not fewer.
    let index = WalIndex::read(&sibling(database, "-shm"));
    let wal = match File::open(sibling(database, "-wal")) {
        Ok(wal) => wal,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return index.map(|index| Damage { kind: DamageKind::Missing, salts: index.salts });
        }
        // SQLite reports a WAL that cannot be read.
        Err(_) => return None,
    };
    let mut wal = BufReader::with_capacity(1 << 18, wal);
    let Some(header) = read::<HEADER_LENGTH>(&mut wal) else {
        let cut_off = |index: WalIndex| (DamageKind::CutOff { frames: 0, of: index.last }, index.salts);
        return index.map(cut_off).map(|(kind, salts)| Damage { kind, salts });
    };
    let Some(format) = Format::of(&header) else {
        let salts = salts(&header, 16);
        let lost = index.is_some() || has_commits_without_header(database);
        return lost.then_some(Damage { kind: DamageKind::Header, salts });
    };
    let scan = scan(&mut wal, &format, Some(format.sum));
    let salts = format.salts;
    let index = index.filter(|index| index.salts == salts && index.last > scan.committed);
    let kind = match scan.broken {
        Some(frame) if index.is_some() || scan.commits_after_break => Some(DamageKind::Frame(frame)),
        None => index.map(|index| DamageKind::CutOff { frames: scan.frames, of: index.last }),
        Some(_) => None,
    };
    kind.map(|kind| Damage { kind, salts })
}

/// Returns whether a WAL with an invalid header holds complete transactions.
fn has_commits_without_header(database: &Path) -> bool {
    let attempt = |big_endian| {
        let mut start = BufReader::new(File::open(database).ok()?);
        let page = page_size(u32::from(u16::from_be_bytes(read::<18>(&mut start)?[16..].try_into().ok()?)))?;
        let mut wal = BufReader::with_capacity(1 << 18, File::open(sibling(database, "-wal")).ok()?);
        read::<HEADER_LENGTH>(&mut wal)?;
        let salts = salts(&read::<FRAME_HEADER_LENGTH>(&mut wal)?, 8);
        wal.seek_relative(-(FRAME_HEADER_LENGTH as i64)).ok()?;
        let format = Format { page, big_endian, salts, sum: (0, 0) };
        Some(scan(&mut wal, &format, None).commits_after_break)
    };
    [false, true].into_iter().any(|big_endian| attempt(big_endian).unwrap_or_default())
}

/// The format of the frames of a WAL.
struct Format {
    page: usize,
    big_endian: bool,
    salts: Salts,
    /// The checksum of the header. The checksum of the first frame continues from it.
    sum: Sum,
}

impl Format {
    /// Returns `None` if the header is not valid.
    fn of(header: &[u8; HEADER_LENGTH]) -> Option<Self> {
        let magic = word(header, 0);
        let big_endian = magic & 1 == 1;
        let sum = checksum(big_endian, (0, 0), &header[..24]);
        let page = page_size(word(header, 8))?;
        let whole = magic & !1 == MAGIC && sum == (word(header, 24), word(header, 28));
        whole.then(|| Self { page, big_endian, salts: salts(header, 16), sum })
    }
}

fn page_size(size: u32) -> Option<usize> {
    // The database header has only two bytes for the page size, and stores 65,536 as 1.
    let size = if size == 1 { 65_536 } else { size };
    (size.is_power_of_two() && (512..=65_536).contains(&size)).then_some(size as usize)
}

/// The result of scanning a WAL.
#[derive(Default)]
struct Scan {
    /// Number of valid frames at the start.
    frames: u32,
    /// The last of them that ends a transaction.
    committed: u32,
    /// The first invalid frame.
    broken: Option<u32>,
    /// Set if a complete transaction follows the end of another one after the first invalid frame.
    commits_after_break: bool,
}

fn scan(wal: &mut BufReader<File>, format: &Format, mut before: Option<Sum>) -> Scan {
    let mut scan = Scan::default();
    // Set while all frames since the last end of a transaction continue from it.
    let mut whole = false;
    let mut page = vec![0; format.page];
    for number in 1.. {
        let Some(header) = read::<FRAME_HEADER_LENGTH>(wal) else { break };
        if salts(&header, 8) != format.salts {
            // The frame is a leftover from before the last restart of the WAL, or damaged. Skip its page.
            scan.broken.get_or_insert(number);
            (before, whole) = (None, false);
            if wal.seek_relative(format.page as i64).is_err() {
                break;
            }
            continue;
        }
        if wal.read_exact(&mut page).is_err() {
            break;
        }
        let stored = (word(&header, 16), word(&header, 20));
        let follows = before.is_some_and(|before| {
            let sum = checksum(format.big_endian, before, &header[..8]);
            checksum(format.big_endian, sum, &page) == stored && word(&header, 0) != 0
        });
        let commits = word(&header, 4) != 0;
        if follows && scan.broken.is_none() {
            scan.frames = number;
            scan.committed = if commits { number } else { scan.committed };
        } else {
            scan.broken.get_or_insert(number);
            whole &= follows;
            scan.commits_after_break |= whole && commits;
            whole |= commits;
        }
        before = Some(stored);
    }
    scan
}

/// The part of the WAL index that this check uses.
struct WalIndex {
    salts: Salts,
    /// The last committed frame.
    last: u32,
}

impl WalIndex {
    /// Reads the index. Returns `None` if it lists no frame that is only in the WAL.
    fn read(path: &Path) -> Option<Self> {
        let index = read::<INDEX_LENGTH>(&mut BufReader::new(File::open(path).ok()?))?;
        let (header, copy) =
            (&index[..INDEX_HEADER_LENGTH], &index[INDEX_HEADER_LENGTH..2 * INDEX_HEADER_LENGTH]);
        // The index uses the machine's byte order.
        let own = |at: usize| index[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
        let sum = checksum(cfg!(target_endian = "big"), (0, 0), &header[..40]);
        if header != copy || header[12] != 1 || sum != (own(40), own(44)) {
            return None;
        }
        let (last, written_back) = (own(16), own(96));
        (last > written_back).then(|| Self { salts: salts(header, 32), last })
    }
}

/// Continues SQLite's checksum over bytes whose number is a multiple of 8.
fn checksum(big_endian: bool, before: Sum, bytes: &[u8]) -> Sum {
    let word =
        |bytes: [u8; 4]| if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) };
    let (mut one, mut two) = before;
    let (pairs, _) = bytes.as_chunks::<8>();
    for [a, b, c, d, e, f, g, h] in pairs {
        one = one.wrapping_add(word([*a, *b, *c, *d])).wrapping_add(two);
        two = two.wrapping_add(word([*e, *f, *g, *h])).wrapping_add(one);
    }
    (one, two)
}

/// Returns the next `N` bytes, or `None` if there are fewer.
fn read<const N: usize>(file: &mut BufReader<File>) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn salts(bytes: &[u8], at: usize) -> Salts {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).unwrap_or_default()
}
