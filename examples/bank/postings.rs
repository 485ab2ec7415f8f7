//! Postings from a CSV file, plain or gzipped, each row checked before it is handed out.
//!
//! The file is read line by line, so that a fault is told with the line that it stands on: blank
//! lines and carriage returns do not shift the count, and a quote that is left open does not
//! swallow the rest of the file.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, BufRead, BufReader, Read};
use std::str::FromStr;

use csv_core::ReadRecordResult;
use flate2::bufread::MultiGzDecoder;

use crate::values::{AccountId, Czk, Day, Debit, Malformed, whole_number};

/// One posting, as a row of the file tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The line of the file, from 1.
    pub line: u64,
    /// The posting's own number, unique in the bank.
    pub id: u64,
    pub account: AccountId,
    pub on: Day,
    pub kind: Kind,
    /// Above zero; the sign follows from the kind.
    pub amount: Czk,
}

/// What a posting does, by the code in the column `type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `PRIJEM`: the balance grows.
    Credit,
    /// `VYDAJ` or `VYBER`: it shrinks.
    Debit(Debit),
}

impl FromStr for Kind {
    type Err = Malformed;

    fn from_str(code: &str) -> Result<Self, Malformed> {
        match code {
            "PRIJEM" => Ok(Self::Credit),
            "VYDAJ" => Ok(Self::Debit(Debit::Vydaj)),
            "VYBER" => Ok(Self::Debit(Debit::Vyber)),
            _ => Err(Malformed::new(code, "none of the codes PRIJEM, VYDAJ, VYBER")),
        }
    }
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    file: String,
    line: Option<u64>,
    column: Option<String>,
    reason: String,
}

impl Fault {
    /// The file as a whole cannot be had.
    pub fn of_file(file: &str, reason: impl Display) -> Self {
        Self { file: file.to_owned(), line: None, column: None, reason: reason.to_string() }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(column) = &self.column {
            write!(f, ", column `{column}`")?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl std::error::Error for Fault {}

/// The postings of a file, in its order. The first fault ends them.
pub struct Postings {
    lines: Lines,
    columns: Columns,
    /// The line of each posting seen, by its id.
    seen: HashMap<u64, u64>,
    ended: bool,
}

impl Postings {
    /// Reads the header row; `file` is what messages call the file.
    ///
    /// # Errors
    /// [`Fault`] if there is no header row, or it lacks a column.
    pub fn read(file: &str, source: impl Read + Send + 'static) -> Result<Self, Fault> {
        let mut lines = Lines::new(file, source)?;
        if !lines.next()? {
            return Err(lines.fault(None, "the file is empty: it has no header row"));
        }
        let columns = Columns::find(&lines)?;
        Ok(Self { lines, columns, seen: HashMap::new(), ended: false })
    }

    fn posting(&mut self) -> Result<Option<Posting>, Fault> {
        if !self.lines.next()? {
            return Ok(None);
        }
        let row = Row { lines: &self.lines, names: &self.columns.names };
        row.check_width()?;
        let at = &self.columns.at;
        let posting = Posting {
            line: self.lines.line,
            id: row.parse(at[ID], whole_number)?,
            account: row.parse(at[ACCOUNT], str::parse)?,
            on: row.parse(at[DATE], str::parse)?,
            kind: row.parse(at[TYPE], str::parse)?,
            amount: row.parse(at[AMOUNT], amount)?,
        };
        row.check(self.columns.sequence, whole_number::<u32>)?;
        row.check(self.columns.balance, str::parse::<Czk>)?;
        if let Some(first) = self.seen.insert(posting.id, posting.line) {
            return Err(row.fault(at[ID], format!("posting {} stands on line {first} already", posting.id)));
        }
        Ok(Some(posting))
    }
}

impl Iterator for Postings {
    type Item = Result<Posting, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.posting().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

fn amount(text: &str) -> Result<Czk, Malformed> {
    const LARGEST: Czk = Czk::crowns(1_000_000_000_000);
    let amount: Czk = text.parse()?;
    if amount <= Czk::ZERO {
        return Err(Malformed::new(text, "not above zero: the sign of a posting follows from its type"));
    }
    if amount > LARGEST {
        return Err(Malformed::new(text, "more than 1000000000000.00"));
    }
    Ok(amount)
}

/// The columns that a file must have, by their place in [`Columns::at`].
const NEEDED: [&str; 5] = ["trans_id", "account_id", "date", "type", "amount"];
const ID: usize = 0;
const ACCOUNT: usize = 1;
const DATE: usize = 2;
const TYPE: usize = 3;
const AMOUNT: usize = 4;

/// Which column stands where.
struct Columns {
    names: Vec<String>,
    at: [usize; NEEDED.len()],
    /// Not used, but checked where there is something in them.
    sequence: Option<usize>,
    balance: Option<usize>,
}

impl Columns {
    fn find(header: &Lines) -> Result<Self, Fault> {
        let row = Row { lines: header, names: &[] };
        let names = (0..header.width()).map(|index| row.text(index).map(str::to_owned));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let find = |wanted: &str| {
            let mut places = (0..names.len()).filter(|index| names[*index] == wanted);
            match (places.next(), places.next()) {
                (Some(_), Some(_)) => Err(header.fault(Some(wanted), "the header row names it twice")),
                (place, _) => Ok(place),
            }
        };
        let mut at = [0; NEEDED.len()];
        for (place, wanted) in at.iter_mut().zip(NEEDED) {
            *place = find(wanted)?.ok_or_else(|| {
                header.fault(
                    Some(wanted),
                    format!("the header row has no such column, only: {}", names.join(", ")),
                )
            })?;
        }
        let (sequence, balance) = (find("posting_seq")?, find("balance")?);
        Ok(Self { names, at, sequence, balance })
    }
}

/// The current line, with the names of its fields.
struct Row<'a> {
    lines: &'a Lines,
    names: &'a [String],
}

impl<'a> Row<'a> {
    fn check_width(&self) -> Result<(), Fault> {
        let (width, wanted) = (self.lines.width(), self.names.len());
        if width < wanted {
            return Err(
                self.fault(width, format!("the row ends before it: it has {width} of {wanted} fields"))
            );
        }
        if width > wanted {
            return Err(
                self.fault(wanted, format!("the row has {width} fields, the header row names {wanted}"))
            );
        }
        // No column may hold what is not text, not even one that is not used.
        (0..width).try_for_each(|index| self.text(index).map(drop))
    }

    fn text(&self, index: usize) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.lines.field(index)).map_err(|_| self.fault(index, "not UTF-8"))
    }

    fn parse<T>(&self, index: usize, parse: impl Fn(&str) -> Result<T, Malformed>) -> Result<T, Fault> {
        parse(self.text(index)?).map_err(|error| self.fault(index, error))
    }

    /// Checks a field of a column that may be missing, and may be empty.
    fn check<T>(
        &self,
        index: Option<usize>,
        parse: impl Fn(&str) -> Result<T, Malformed>,
    ) -> Result<(), Fault> {
        match index {
            Some(index) if !self.text(index)?.is_empty() => self.parse(index, parse).map(drop),
            _ => Ok(()),
        }
    }

    fn fault(&self, index: usize, reason: impl Display) -> Fault {
        let number = format!("number {}", index + 1);
        self.lines.fault(Some(self.names.get(index).unwrap_or(&number)), reason)
    }
}

/// The lines of a file, each split into its fields.
struct Lines {
    file: String,
    source: Box<dyn BufRead + Send>,
    /// The current line, from 1.
    line: u64,
    raw: Vec<u8>,
    splitter: csv_core::Reader,
    fields: Vec<u8>,
    ends: Vec<usize>,
    width: usize,
}

impl Lines {
    /// No line of such a file comes near to it; what is longer is not a file of lines.
    const LONGEST: u64 = 64 * 1024;

    fn new(file: &str, source: impl Read + Send + 'static) -> Result<Self, Fault> {
        let mut source = BufReader::with_capacity(64 * 1024, source);
        let start = source.fill_buf().map_err(|error| Fault::of_file(file, unreadable(&error)))?;
        let source: Box<dyn BufRead + Send> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(source)))
        } else {
            Box::new(source)
        };
        Ok(Self {
            file: file.to_owned(),
            source,
            line: 0,
            raw: Vec::new(),
            splitter: csv_core::ReaderBuilder::new().terminator(csv_core::Terminator::Any(b'\n')).build(),
            fields: Vec::new(),
            ends: vec![0; 64],
            width: 0,
        })
    }

    /// Goes on to the next line that is not blank; answers whether there is one.
    fn next(&mut self) -> Result<bool, Fault> {
        loop {
            self.line += 1;
            self.raw.clear();
            let read = self.source.by_ref().take(Self::LONGEST).read_until(b'\n', &mut self.raw);
            match read {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) => return Err(self.fault(None, unreadable(&error))),
            }
            if self.raw.len() as u64 == Self::LONGEST {
                return Err(self.fault(None, format!("longer than {} bytes", Self::LONGEST)));
            }
            self.raw.pop_if(|last| *last == b'\n');
            self.raw.pop_if(|last| *last == b'\r');
            if !self.raw.is_empty() {
                return self.split().map(|()| true);
            }
        }
    }

    fn split(&mut self) -> Result<(), Fault> {
        self.raw.push(b'\n');
        self.fields.resize(self.raw.len(), 0);
        self.splitter.reset();
        let (end, _, _, width) = self.splitter.read_record(&self.raw, &mut self.fields, &mut self.ends);
        self.width = width;
        match end {
            ReadRecordResult::Record => Ok(()),
            ReadRecordResult::OutputEndsFull => Err(self.fault(None, "far too many fields")),
            _ => Err(self.fault(None, "a quote is left open")),
        }
    }

    fn width(&self) -> usize {
        self.width
    }

    fn field(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.fields[start..self.ends[index]]
    }

    fn fault(&self, column: Option<&str>, reason: impl Display) -> Fault {
        Fault {
            file: self.file.clone(),
            line: Some(self.line),
            column: column.map(str::to_owned),
            reason: reason.to_string(),
        }
    }
}

fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the gzip data breaks off here".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    }
}
