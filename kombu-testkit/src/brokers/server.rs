use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fmt, io, thread};

use rustix::process::Signal;

use super::folder::Folder;
use super::process::Process;

/// The slowest, RabbitMQ, takes 3 to 10 seconds; a busy machine needs more.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(10);
const STOPPED_WITHIN: Duration = Duration::from_secs(1);
/// How often other ports are tried, if somebody else is faster.
const ATTEMPTS: u32 = 5;
const OUTPUT: &str = "output";

/// What becomes of what a broker has stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It starts with what it had.
    Keep,
    /// It starts empty.
    Erase,
}

/// A broker's process and its folder, the same for each kind of broker.
pub struct Server {
    name: &'static str,
    process: Option<Process>,
    folder: Folder,
    command: Box<dyn Fn() -> io::Result<Command> + Send + Sync>,
    is_ready: Box<dyn Fn(&str) -> bool + Send + Sync>,
}

impl Server {
    /// `is_ready` is asked again and again, with all that the program has printed.
    pub(super) fn start(
        name: &'static str,
        folder: Folder,
        command: impl Fn() -> io::Result<Command> + Send + Sync + 'static,
        is_ready: impl Fn(&str) -> bool + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut server = Server {
            name,
            process: None,
            folder,
            command: Box::new(command),
            is_ready: Box::new(is_ready),
        };
        server.run()?;
        Ok(server)
    }

    fn run(&mut self) -> io::Result<()> {
        let output = File::create(self.folder.path().join(OUTPUT))?;
        let mut command = (self.command)()?;
        command.stdout(output.try_clone()?).stderr(output);
        let mut process = Process::start(&mut command, self.folder.path())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = process.has_ended();
            let printed = self.printed();
            if ended {
                return Err(self.failed("ended at its start", &printed));
            }
            if (self.is_ready)(&printed) {
                break;
            }
            if Instant::now() > deadline {
                return Err(self.failed("didn't start in time", &printed));
            }
            thread::sleep(STEP);
        }
        self.process = Some(process);
        Ok(())
    }

    fn printed(&self) -> String {
        let bytes = fs::read(self.folder.path().join(OUTPUT)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn failed(&self, what: &str, printed: &str) -> io::Error {
        let kind = if printed.contains("in use") || printed.contains("eaddrinuse") {
            io::ErrorKind::AddrInUse
        } else {
            io::ErrorKind::Other
        };
        io::Error::new(kind, format!("{} {what}: {printed}", self.name))
    }

    fn process(&self) -> io::Result<&Process> {
        self.process
            .as_ref()
            .ok_or_else(|| io::Error::other(format!("{} isn't running", self.name)))
    }

    pub(super) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The number of its process, which is also that of its process group; `None` while it isn't running.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Asks it to end, and waits until it has. One that isn't running stays so.
    ///
    /// # Errors
    ///
    /// If it takes longer than a minute; it is killed then.
    pub fn stop(&mut self) -> io::Result<()> {
        match self.process.take() {
            Some(process) => process.stop(),
            None => Ok(()),
        }
    }

    /// Ends it as a crash would: it writes nothing more and says goodbye to nobody.
    ///
    /// # Errors
    ///
    /// If it isn't running.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process()?;
        self.process = None;
        Ok(())
    }

    /// Stops it, if it is running, and starts it again, on the same ports. Returns when it takes connections.
    ///
    /// # Errors
    ///
    /// If it can't be stopped or started; then it isn't running.
    pub fn restart(&mut self, data: Data) -> io::Result<()> {
        self.stop()?;
        if data == Data::Erase {
            self.folder.erase_data()?;
        }
        self.run()
    }

    /// Has it read its configuration again, if it is running. Returns when it has printed once more that it has done so.
    pub(super) fn reload(&self, done: &str) -> io::Result<()> {
        let Some(process) = &self.process else {
            return Ok(());
        };
        let times = |printed: &str| printed.matches(done).count();
        let before = times(&self.printed());
        process.signal(Signal::HUP)?;
        let deadline = Instant::now() + PATIENCE;
        while times(&self.printed()) == before {
            if Instant::now() > deadline {
                return Err(self.failed("didn't read its configuration in time", &self.printed()));
            }
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// Stops its clock: its connections stay, and it neither reads nor answers.
    ///
    /// # Errors
    ///
    /// If it isn't running.
    pub fn pause(&self) -> io::Result<()> {
        let process = self.process()?;
        process.signal(Signal::STOP)?;
        // It goes on for a moment.
        let deadline = Instant::now() + STOPPED_WITHIN;
        while !process.is_stopped() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends a [`pause`](Server::pause).
    ///
    /// # Errors
    ///
    /// If it isn't running.
    pub fn resume(&self) -> io::Result<()> {
        self.process()?.signal(Signal::CONT)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// Starts something on ports that were free a moment ago, and again on others if they no longer are.
pub(super) fn on_free_ports<T, const N: usize>(
    start: impl Fn([u16; N]) -> io::Result<T>,
) -> io::Result<T> {
    let mut attempt = 1;
    loop {
        match start(crate::ports::free()?) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < ATTEMPTS => {
                attempt += 1;
            }
            result => return result,
        }
    }
}
