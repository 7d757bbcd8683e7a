//! The work of every parser grows no faster than its input: each check in `fuzz/checks` runs on the long
//! inputs of `fuzz/long.rs`, at once, twice, four and eight times a length, and what it does is counted.
//!
//! No clock is read. The bytes that a check allocates are counted on every machine. Its instructions are
//! counted where valgrind is installed, which runs this program a second time: processors count them,
//! too, but virtual machines and containers rarely let a process read that.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that fails has nothing to clean up"
)]

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/long.rs"]
mod long;

use std::collections::BTreeSet;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};

use dhat::HeapStats;

use self::checks::Check;
use self::long::Case;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// The lengths of the inputs, in bytes. Longer ones show no more, and valgrind is slow.
const LENGTHS: [usize; 4] = [512, 1 << 10, 2 << 10, 4 << 10];

/// How much more work each length may add than the one before, in tenths. Work in proportion to the
/// input adds twice as much, a sort of a few names up to two and a half times, and work in proportion to
/// its square four times as much.
const MAX_RATIO: u64 = 26;

/// Instructions and bytes that do not count: buffers that double, a table that is built once.
const SLACK: u64 = 20_000;

/// Set for the program that valgrind runs.
const COUNTED: &str = "TIDEGATE_GROWTH_COUNTED";

#[test]
fn work_grows_no_faster_than_the_input() {
    if std::env::var_os(COUNTED).is_some() {
        run_all();
        return;
    }
    let mut faults = superlinear("bytes allocated", &allocated());
    match instructions() {
        Some(counts) => faults.extend(superlinear("instructions", &counts)),
        None => eprintln!("valgrind is not installed: instructions are not counted"),
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_check_has_long_inputs() {
    let with: BTreeSet<_> = long::CASES.iter().map(|case| case.check).collect();
    let all: BTreeSet<_> = checks::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(with, all);
}

/// The work of one case for each length.
type Counts = [u64; LENGTHS.len()];

/// The cases whose work grows faster than their input.
fn superlinear(what: &str, counts: &[Counts]) -> Vec<String> {
    assert_eq!(counts.len(), long::CASES.len());
    let grows = |[one, two, four, eight]: Counts| {
        let added = |more: u64, less: u64| more.saturating_sub(less);
        let (second, third) = (added(four, two), added(eight, four));
        let most = |before: u64| before * MAX_RATIO / 10 + SLACK;
        second > most(added(two, one)) || third > most(second)
    };
    let cases = long::CASES.iter().zip(counts);
    cases
        .filter(|(_, counts)| grows(**counts))
        .map(|(case, counts)| format!("{}/{}: {what} {counts:?}", case.check, case.name))
        .collect()
}

fn check_of(case: &Case) -> Check {
    let mut all = checks::ALL.into_iter();
    all.find(|(name, _)| *name == case.check).unwrap().1
}

/// What each case allocates for each length.
fn allocated() -> Vec<Counts> {
    let _profiler = dhat::Profiler::builder().testing().build();
    let count = |case: &Case| {
        LENGTHS.map(|length| {
            let bytes = (case.make)(length);
            let before = HeapStats::get().total_bytes;
            check_of(case)(&bytes);
            HeapStats::get().total_bytes - before
        })
    };
    // What is built once is built before.
    long::CASES
        .iter()
        .for_each(|case| check_of(case)(&(case.make)(LENGTHS[0])));
    long::CASES.iter().map(count).collect()
}

/// What valgrind counts.
#[inline(never)]
fn counted_by_valgrind(check: Check, bytes: &[u8]) {
    check(black_box(bytes));
}

fn run_all() {
    for case in long::CASES {
        check_of(case)(&(case.make)(LENGTHS[0]));
        for length in LENGTHS {
            counted_by_valgrind(
                check_of(case),
                aligned(&(case.make)(length), &mut Vec::new()),
            );
        }
    }
}

/// These bytes at an address that is the same for vector instructions, whose number depends on it.
fn aligned<'a>(bytes: &[u8], copy: &'a mut Vec<u8>) -> &'a [u8] {
    const VECTOR: usize = 64;
    copy.reserve_exact(VECTOR + bytes.len());
    let begin = copy.as_ptr().align_offset(VECTOR);
    copy.resize(begin, 0);
    copy.extend_from_slice(bytes);
    &copy[begin..]
}

/// The instructions of each case for each length; `None` without valgrind.
fn instructions() -> Option<Vec<Counts>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let status = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args([
            "--toggle-collect=growth::counted_by_valgrind",
            "--dump-after=growth::counted_by_valgrind",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args([
            "work_grows_no_faster_than_the_input",
            "--exact",
            "--test-threads=1",
        ])
        .env(COUNTED, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .ok()?;
    assert!(status.success(), "{status}");
    let counts = (1..=long::CASES.len() * LENGTHS.len()).map(|number| total(&out, number));
    let counts: Vec<u64> = counts.collect();
    let (counts, rest) = counts.as_chunks();
    assert!(rest.is_empty());
    Some(counts.to_vec())
}

/// The instructions in one of the files that valgrind writes, one for each call.
fn total(out: &Path, number: usize) -> u64 {
    let text = fs::read_to_string(format!("{}.{number}", out.display())).unwrap();
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total.unwrap().trim().parse().unwrap()
}
