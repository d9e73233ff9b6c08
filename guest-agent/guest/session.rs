//! Keeps one session in a guest: `session DIRECTORY ROWS COLUMNS PROGRAM ARGUMENT...`.
//!
//! It runs the program in a terminal of its own, or with pipes when there are no rows, and passes bytes
//! between it and files, so that whoever is at the other end may come and go:
//!
//! | file in DIRECTORY | holds |
//! |---|---|
//! | `input` | what the program is to read, ever growing; what it has read is taken out |
//! | `end` | anything at all, once `input` grows no more |
//! | `taken` | how much of `input` was passed on |
//! | `stdout`, our standard output | what the program showed, ever growing; what is long read is taken out |
//! | `seen` | how much of it was read, by whoever is ahead |
//! | `size` | rows and columns |
//! | `session` | the program's process id, which is its session's |
//!
//! We end as the program did. When we are killed, its terminal is hung up.
//!
//! Built on its own, without any crate: it has to be one static program.

use std::{
    ffi::{c_char, c_int, c_ulong},
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, PipeReader, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{
            fs::{FileExt, OpenOptionsExt},
            process::{CommandExt, ExitStatusExt},
        },
    },
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// How far the output may get ahead of its readers.
const WINDOW: u64 = 4 << 20;
/// How much of what was read is kept, for readers that are behind.
const KEPT: u64 = 1 << 20;
/// In what portions room is given back.
const PORTION: u64 = 256 << 10;
/// What is passed on at once.
const BUFFER: usize = 64 << 10;
/// How much of what the program left behind may still show after its end.
const LAST_WORDS: u64 = 1 << 20;
/// How soon to try again where a full disk keeps output back.
const FULL: Duration = Duration::from_millis(200);

/// What the other side has asked for so far.
#[derive(Default)]
struct Wishes {
    input: u64,
    input_ends: bool,
    seen: u64,
    size: Option<WindowSize>,
}

struct Shared {
    directory: PathBuf,
    wishes: Mutex<Wishes>,
    changed: Condvar,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    if first.as_ref().is_some_and(|argument| argument == "--check") {
        return ExitCode::SUCCESS;
    }
    let mut number = || arguments.next()?.to_str()?.parse::<u16>().ok();
    let (Some(directory), Some(rows), Some(columns)) = (first, number(), number()) else {
        eprintln!("usage: session DIRECTORY ROWS COLUMNS PROGRAM ARGUMENT...");
        return ExitCode::from(2);
    };
    let Some(program) = arguments.next() else {
        return ExitCode::from(2);
    };
    let size = (rows > 0).then_some(WindowSize::new(rows, columns));
    let mut command = Command::new(&program);
    command.args(arguments);
    match keep(Path::new(&directory), size, &mut command) {
        Ok(status) => end_as(status),
        Err(error) => {
            println!("{}: {error}", program.display());
            ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}

/// Runs `command` to its end.
fn keep(
    directory: &Path,
    size: Option<WindowSize>,
    command: &mut Command,
) -> io::Result<ExitStatus> {
    let shared = Arc::new(Shared {
        directory: directory.to_owned(),
        wishes: Mutex::default(),
        changed: Condvar::new(),
    });
    let watch = Watch::new(directory)?;
    let (mut child, input, output) = match size {
        Some(size) => {
            let (master, slave) = open_terminal(size)?;
            in_terminal(command, slave)?;
            (command.spawn()?, Some(master.try_clone()?), master)
        }
        None => {
            let (reader, writer) = io::pipe()?;
            command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
            in_group(command);
            let mut child = command.spawn()?;
            let input = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
            (child, input, File::from(OwnedFd::from(reader)))
        }
    };
    // It still holds the other ends of the pipes, and the terminal.
    drop(std::mem::replace(command, Command::new("")));
    let _ = fs::write(directory.join("session"), format!("{}\n", child.id()));

    let terminal = size.map(|_| output.try_clone()).transpose()?;
    let wishes = shared.clone();
    thread::spawn(move || wishes.attend(watch, terminal));
    if let Some(input) = input {
        let feeding = shared.clone();
        let is_terminal = size.is_some();
        thread::spawn(move || feeding.feed(input, is_terminal));
    }
    let (ended, end) = io::pipe()?;
    let showing = shared.clone();
    let show = thread::spawn(move || showing.show(output, ended));
    let status = child.wait();
    drop(end);
    let _ = show.join();
    status
}

/// Ends this process as that one did.
fn end_as(status: ExitStatus) -> ExitCode {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or(9),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

impl Shared {
    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Keeps up with the files that the other side writes.
    fn attend(&self, mut watch: Watch, terminal: Option<File>) {
        loop {
            {
                let mut wishes = self.wishes();
                wishes.input = fs::metadata(self.file("input")).map_or(0, |file| file.len());
                wishes.input_ends |=
                    fs::metadata(self.file("end")).is_ok_and(|file| file.len() > 0);
                let seen = self.numbers("seen").first().copied().unwrap_or(0);
                wishes.seen = wishes.seen.max(seen);
                if let (Some(terminal), [rows, columns]) = (&terminal, &*self.numbers("size"))
                    && let (Ok(rows), Ok(columns)) = (u16::try_from(*rows), u16::try_from(*columns))
                    && rows > 0
                {
                    let size = WindowSize::new(rows, columns);
                    if wishes.size != Some(size) {
                        wishes.size = Some(size);
                        set_size(terminal, size);
                    }
                }
            }
            self.changed.notify_all();
            if watch.wait().is_err() {
                return;
            }
        }
    }

    /// Passes on what is to be read, as fast as the program reads it.
    fn feed(&self, mut program: File, is_terminal: bool) {
        /// What a terminal takes for the end of its input.
        const END_OF_TRANSMISSION: u8 = 4;

        let Ok(input) = OpenOptions::new().read(true).write(true).open(self.file("input")) else {
            return;
        };
        let Ok(note) = OpenOptions::new().write(true).open(self.file("taken")) else { return };
        let (mut taken, mut room) = (0, 0);
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut wishes = self.wishes();
            while wishes.input <= taken && !wishes.input_ends {
                wishes = self.wait(wishes);
            }
            let ends = wishes.input_ends;
            drop(wishes);
            match input.read_at(&mut buffer, taken) {
                Ok(0) if ends => {
                    if is_terminal {
                        let _ = program.write_all(&[END_OF_TRANSMISSION]);
                    }
                    return;
                }
                Ok(0) => continue,
                Ok(count) => {
                    // A program that reads no more loses what it is sent, and the sender need not wait.
                    let _ = program.write_all(&buffer[..count]);
                    taken += count as u64;
                    let _ = note.write_all_at(format!("{taken:020}\n").as_bytes(), 0);
                    if taken - room >= PORTION {
                        take_out(&input, taken);
                        room = taken;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Keeps what the program shows, until it has ended and all is said.
    fn show(&self, mut program: File, ended: PipeReader) {
        let Ok(mut output) = OpenOptions::new().append(true).open(self.file("stdout")) else {
            return;
        };
        let mut shown = output.metadata().map_or(0, |file| file.len());
        let (mut room, mut after_end) = (0, 0);
        let mut is_over = false;
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut wishes = self.wishes();
            while shown >= wishes.seen + WINDOW {
                wishes = self.wait(wishes);
            }
            let seen = wishes.seen.min(shown);
            drop(wishes);
            let forget = seen.saturating_sub(KEPT);
            if forget >= room + PORTION {
                take_out(&output, forget);
                room = forget;
            }
            let ready = wait_for_either(&program, &ended, is_over);
            is_over |= ready.second;
            if !ready.first {
                if is_over {
                    return;
                }
                continue;
            }
            // A terminal says with an error that its last program is gone.
            let Ok(count @ 1..) = program.read(&mut buffer) else { return };
            let mut part = &buffer[..count];
            while !part.is_empty() {
                match output.write(part) {
                    Ok(count) => part = &part[count..],
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => thread::sleep(FULL),
                    Err(_) => return,
                }
            }
            shown += count as u64;
            if is_over {
                after_end += count as u64;
                if after_end > LAST_WORDS {
                    return;
                }
            }
        }
    }

    fn wait<'a>(&self, wishes: MutexGuard<'a, Wishes>) -> MutexGuard<'a, Wishes> {
        self.changed.wait(wishes).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The numbers in a file; none while it is being written.
    fn numbers(&self, name: &str) -> Vec<u64> {
        let text = fs::read_to_string(self.file(name)).unwrap_or_default();
        let Some((line, _)) = text.split_once('\n') else { return Vec::new() };
        line.split(' ').filter_map(|number| number.parse().ok()).collect()
    }
}

/// What the kernel knows of a window's size.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct WindowSize {
    rows: u16,
    columns: u16,
    width_pixels: u16,
    height_pixels: u16,
}

impl WindowSize {
    fn new(rows: u16, columns: u16) -> Self {
        Self { rows, columns, width_pixels: 0, height_pixels: 0 }
    }
}

/// Tells when a file in a directory is written to.
struct Watch(File);

impl Watch {
    fn new(directory: &Path) -> io::Result<Self> {
        const CLOSE_ON_EXEC: c_int = 0o2000000;
        const MODIFY: u32 = 2;

        // SAFETY: it takes no pointers; what it returns is checked.
        let raw = check(unsafe { inotify_init1(CLOSE_ON_EXEC) })?;
        // SAFETY: it was opened just now and belongs to nobody else.
        let watch = Self(unsafe { File::from_raw_fd(raw) });
        for name in ["input", "end", "seen", "size"] {
            let path =
                std::ffi::CString::new(directory.join(name).into_os_string().into_encoded_bytes())?;
            // SAFETY: the path ends with a NUL and outlives the call.
            check(unsafe { inotify_add_watch(raw, path.as_ptr(), MODIFY) })?;
        }
        Ok(watch)
    }

    fn wait(&mut self) -> io::Result<()> {
        // Room for many: what they say does not matter, as all files are looked at.
        let mut events = [0; 4096];
        loop {
            match self.0.read(&mut events) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read.map(|_| ()),
            }
        }
    }
}

/// Both ends of a new terminal.
fn open_terminal(size: WindowSize) -> io::Result<(File, File)> {
    const NO_CONTROLLING_TERMINAL: c_int = 0o400;

    let mut open = OpenOptions::new();
    open.read(true).write(true).custom_flags(NO_CONTROLLING_TERMINAL);
    let master = open.open("/dev/ptmx")?;
    let (mut locked, mut number): (c_int, c_int) = (0, 0);
    // SAFETY: both requests take a pointer to one integer, which lives on.
    check(unsafe { ioctl(master.as_raw_fd(), TIOCSPTLCK, &raw mut locked) })?;
    // SAFETY: as above.
    check(unsafe { ioctl(master.as_raw_fd(), TIOCGPTN, &raw mut number) })?;
    let slave = open.open(format!("/dev/pts/{number}"))?;
    set_size(&master, size);
    expect_utf8(&slave);
    Ok((master, slave))
}

/// Makes the terminal rub out whole characters.
fn expect_utf8(terminal: &File) {
    const IUTF8: u32 = 0o40000;
    // More than any kernel's structure takes; it begins with the flags of the input.
    let mut settings = [0_u32; 64];
    // SAFETY: both requests take a pointer to a structure that fits, which lives on. They can be done without.
    unsafe {
        if ioctl(terminal.as_raw_fd(), TCGETS, settings.as_mut_ptr()) == 0 {
            settings[0] |= IUTF8;
            ioctl(terminal.as_raw_fd(), TCSETS, settings.as_mut_ptr());
        }
    }
}

fn set_size(terminal: &File, mut size: WindowSize) {
    // SAFETY: the request takes a pointer to such a structure, which lives on. That it fails for a terminal
    // that is gone does not matter any more.
    unsafe { ioctl(terminal.as_raw_fd(), TIOCSWINSZ, &raw mut size) };
}

/// Makes `command` the leader of a session in this terminal.
fn in_terminal(command: &mut Command, slave: File) -> io::Result<()> {
    command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
    let lead = || {
        // SAFETY: it takes no pointers.
        check(unsafe { setsid() })?;
        // SAFETY: standard input is the terminal by now; the request takes a number.
        check(unsafe { ioctl(0, TIOCSCTTY, std::ptr::null_mut::<c_int>()) })?;
        hang_up_with_parent()
    };
    // SAFETY: between fork and exec it only makes system calls, and allocates nothing.
    unsafe { command.pre_exec(lead) };
    Ok(())
}

/// Makes `command` the leader of a session without a terminal.
fn in_group(command: &mut Command) {
    let lead = || {
        // SAFETY: it takes no pointers.
        check(unsafe { setsid() })?;
        hang_up_with_parent()
    };
    // SAFETY: as above.
    unsafe { command.pre_exec(lead) };
}

fn hang_up_with_parent() -> io::Result<()> {
    const PR_SET_PDEATHSIG: c_int = 1;
    const SIGHUP: c_ulong = 1;
    // SAFETY: the request takes a number.
    check(unsafe { prctl(PR_SET_PDEATHSIG, SIGHUP) }).map(|_| ())
}

/// Which of two files can be read, or has ended.
struct Ready {
    first: bool,
    second: bool,
}

/// Waits for one of them; with `at_once`, only looks at the first.
fn wait_for_either(first: &File, second: &PipeReader, at_once: bool) -> Ready {
    const IN: i16 = 1;
    let mut polls = [
        Poll { file: first.as_raw_fd(), events: IN, returned: 0 },
        Poll { file: if at_once { -1 } else { second.as_raw_fd() }, events: IN, returned: 0 },
    ];
    // SAFETY: the array holds as many entries as it is said to, and outlives the call.
    unsafe { poll(polls.as_mut_ptr(), polls.len() as c_ulong, if at_once { 0 } else { -1 }) };
    Ready { first: polls[0].returned != 0, second: polls[1].returned != 0 }
}

/// Gives back the room of a file's first bytes. They read as zeroes from then on.
fn take_out(file: &File, bytes: u64) {
    const KEEP_SIZE_AND_PUNCH_HOLE: c_int = 3;
    // SAFETY: it takes no pointers. Where the file system cannot do it, the room stays taken.
    unsafe { fallocate64(file.as_raw_fd(), KEEP_SIZE_AND_PUNCH_HOLE, 0, bytes as i64) };
}

fn check(returned: c_int) -> io::Result<c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

#[repr(C)]
struct Poll {
    file: c_int,
    events: i16,
    returned: i16,
}

const TCGETS: c_ulong = 0x5401;
const TCSETS: c_ulong = 0x5402;
const TIOCSCTTY: c_ulong = 0x540E;
const TIOCSWINSZ: c_ulong = 0x5414;
const TIOCGPTN: c_ulong = 0x8004_5430;
const TIOCSPTLCK: c_ulong = 0x4004_5431;

// The C library's, which Rust's own library is linked with. They are as <sys/ioctl.h> and its like declare them.
unsafe extern "C" {
    fn ioctl(file: c_int, request: c_ulong, ...) -> c_int;
    fn setsid() -> c_int;
    fn prctl(option: c_int, ...) -> c_int;
    fn poll(polls: *mut Poll, count: c_ulong, timeout: c_int) -> c_int;
    fn inotify_init1(flags: c_int) -> c_int;
    fn inotify_add_watch(file: c_int, path: *const c_char, mask: u32) -> c_int;
    fn fallocate64(file: c_int, mode: c_int, offset: i64, length: i64) -> c_int;
}
