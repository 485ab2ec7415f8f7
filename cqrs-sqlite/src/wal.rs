//! What SQLite does not tell about a damaged WAL.
//!
//! SQLite takes a WAL up to its last whole transaction. From the first frame on whose checksum does not
//! fit it drops the rest without a word, because that is what a crash leaves: the end of a transaction
//! that was not committed. A bit that flips, or an end that is cut off, looks the same to it, and takes
//! commits that were acknowledged. Two things tell the difference, before SQLite opens the file:
//!
//! - **Whole transactions behind the break.** With `synchronous=FULL` a transaction is on the disk before
//!   the next one is begun. So a crash, of the process or of the machine, can break the last one only.
//!   The checksum of a frame goes on from the one before; so frames that follow each other are known, and
//!   what a rolled back transaction has left behind is not taken for one.
//! - **The index beside the WAL** (`-shm`) has the last frame that was committed. It survives the process,
//!   and it is never ahead of the WAL's synced part, so what it knows and the WAL lacks is lost. A
//!   machine that stops may lose the index or leave an older one; it then tells less, and nothing wrong.
//!
//! Not told: damage to the very last transaction, or an end that is cut off between two transactions,
//! where the index is missing or older too. And a connection of somebody else's that writes to the file
//! with less than `synchronous=FULL` may lose, with the power, what is reported as damage here.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _};
use std::path::Path;
use std::time::Duration;

use crate::error::Fault;
use crate::file::beside;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The first four bytes of a WAL; the last bit says that its checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;
/// Of the index: two copies of its header, and how much of the WAL was written back.
const INDEX: usize = 100;
const INDEX_HEADER: usize = 48;

/// Refuses a file whose WAL has lost what was committed.
pub(crate) fn check(database: &Path) -> Result<(), Fault> {
    // SQLite, too, puts the WAL beside the file that a link leads to.
    let Ok(database) = database.canonicalize() else { return Ok(()) };
    let mut before = None;
    loop {
        let found = look(&database);
        // While another process writes, a look may see half of it; two will not see the same half.
        match found {
            Some(damage) if before.as_ref() == Some(&damage) => return Err(damage.told(&database)),
            None => return Ok(()),
            damage => before = damage,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What is wrong with a WAL, and in which of its lives: each begins with other salts.
#[derive(Debug, PartialEq, Eq)]
struct Damage {
    what: What,
    salts: Salts,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    /// The WAL is not there.
    Missing,
    /// Its header is not one.
    Header,
    /// This frame is not what was written, counted from 1.
    Frame(u32),
    /// It has whole frames up to here, and there were more.
    CutOff { frames: u32, of: u32 },
}

type Salts = [u8; 8];
type Sum = (u32, u32);

impl Damage {
    fn told(&self, database: &Path) -> Fault {
        let wal = beside(database, "-wal");
        let what = match self.what {
            What::Missing => "is missing".to_owned(),
            What::Header => "is damaged in its header".to_owned(),
            What::Frame(frame) => format!("is damaged in frame {frame}"),
            What::CutOff { frames, of } => format!("is cut off behind frame {frames} of {of}"),
        };
        Fault::corrupt(format!(
            "its WAL {} {what}, and SQLite would drop commits without a word. Put a copy back; to \
             continue without those commits, call `SqliteStore::assign_new_log_id`",
            wal.display()
        ))
    }
}

fn look(database: &Path) -> Option<Damage> {
    // The index first: the WAL can then only be further on.
    let index = Index::read(&beside(database, "-shm"));
    let wal = match File::open(beside(database, "-wal")) {
        Ok(wal) => wal,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return index.map(|index| Damage { what: What::Missing, salts: index.salts });
        }
        // What cannot be read will be told by SQLite.
        Err(_) => return None,
    };
    let mut wal = BufReader::with_capacity(1 << 18, wal);
    let Some(header) = read::<HEADER>(&mut wal) else {
        let cut_off = |index: Index| (What::CutOff { frames: 0, of: index.last }, index.salts);
        return index.map(cut_off).map(|(what, salts)| Damage { what, salts });
    };
    let Some(format) = Format::of(&header) else {
        let salts = salts(&header, 16);
        let lost = index.is_some() || goes_on(database);
        return lost.then_some(Damage { what: What::Header, salts });
    };
    let scan = scan(&mut wal, &format, Some(format.sum));
    let salts = format.salts;
    let index = index.filter(|index| index.salts == salts && index.last > scan.committed);
    let what = match scan.broken {
        Some(frame) if index.is_some() || scan.goes_on => Some(What::Frame(frame)),
        None => index.map(|index| What::CutOff { frames: scan.frames, of: index.last }),
        Some(_) => None,
    };
    what.map(|what| Damage { what, salts })
}

/// Whether there are whole transactions in a WAL whose header is not one.
fn goes_on(database: &Path) -> bool {
    let attempt = |big_endian| {
        let mut start = BufReader::new(File::open(database).ok()?);
        let page = page_size(u32::from(u16::from_be_bytes(read::<18>(&mut start)?[16..].try_into().ok()?)))?;
        let mut wal = BufReader::with_capacity(1 << 18, File::open(beside(database, "-wal")).ok()?);
        read::<HEADER>(&mut wal)?;
        let salts = salts(&read::<FRAME_HEADER>(&mut wal)?, 8);
        wal.seek_relative(-(FRAME_HEADER as i64)).ok()?;
        let format = Format { page, big_endian, salts, sum: (0, 0) };
        Some(scan(&mut wal, &format, None).goes_on)
    };
    [false, true].into_iter().any(|big_endian| attempt(big_endian).unwrap_or_default())
}

/// How the frames of a WAL are written.
struct Format {
    page: usize,
    big_endian: bool,
    salts: Salts,
    /// The header's checksum, from which that of the first frame goes on.
    sum: Sum,
}

impl Format {
    /// `None` if the header is not one.
    fn of(header: &[u8; HEADER]) -> Option<Self> {
        let magic = word(header, 0);
        let big_endian = magic & 1 == 1;
        let sum = checksum(big_endian, (0, 0), &header[..24]);
        let page = page_size(word(header, 8))?;
        let whole = magic & !1 == MAGIC && sum == (word(header, 24), word(header, 28));
        whole.then(|| Self { page, big_endian, salts: salts(header, 16), sum })
    }
}

fn page_size(size: u32) -> Option<usize> {
    // A header of the database has room for two bytes only.
    let size = if size == 1 { 65_536 } else { size };
    (size.is_power_of_two() && (512..=65_536).contains(&size)).then_some(size as usize)
}

/// What a WAL turned out to hold.
#[derive(Default)]
struct Scan {
    /// Whole frames at its start.
    frames: u32,
    /// The last of them that ends a transaction.
    committed: u32,
    /// The first frame that is there and not whole.
    broken: Option<u32>,
    /// Whether a whole transaction lies behind another one's end, behind the break.
    goes_on: bool,
}

fn scan(wal: &mut BufReader<File>, format: &Format, mut before: Option<Sum>) -> Scan {
    let mut scan = Scan::default();
    // Whether all frames behind the last end of a transaction go on from it.
    let mut whole = false;
    let mut page = vec![0; format.page];
    for number in 1.. {
        let Some(header) = read::<FRAME_HEADER>(wal) else { break };
        if salts(&header, 8) != format.salts {
            // Of a former life of the WAL, or damaged. The pages of such a one are not looked at.
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
            scan.goes_on |= whole && commits;
            whole |= commits;
        }
        before = Some(stored);
    }
    scan
}

/// What the index beside the WAL knows.
struct Index {
    salts: Salts,
    /// The last frame that was committed.
    last: u32,
}

impl Index {
    /// `None` if it does not know of anything that is in the WAL only.
    fn read(path: &Path) -> Option<Self> {
        let index = read::<INDEX>(&mut BufReader::new(File::open(path).ok()?))?;
        let (header, copy) = (&index[..INDEX_HEADER], &index[INDEX_HEADER..2 * INDEX_HEADER]);
        // It is written in the words of the machine.
        let own = |at: usize| index[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
        let sum = checksum(cfg!(target_endian = "big"), (0, 0), &header[..40]);
        if header != copy || header[12] != 1 || sum != (own(40), own(44)) {
            return None;
        }
        let (last, written_back) = (own(16), own(96));
        (last > written_back).then(|| Self { salts: salts(header, 32), last })
    }
}

/// SQLite's checksum, over a number of bytes that 8 divides, going on from an earlier one.
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

/// All of the next bytes, or `None` if there are not so many.
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
