//! What lapin reads from and writes to.
//!
//! Sockets are connected here, and encrypted if the URL says so, before lapin has them: by itself it would leave out the
//! encryption where it was built without, and go on connecting after its caller has given up.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::frames::Frames;
use crate::greeting::Greeting;

/// A connected socket, plain or encrypted.
pub(crate) struct Socket {
    stream: Pin<Box<dyn Transfer>>,
    /// Until it is complete.
    greeting: Option<Greeting>,
    frames: Frames,
    /// The begin of a frame that isn't whole yet.
    begun: Vec<u8>,
    /// What was read and can go on, and how much of it has.
    ready: (Vec<u8>, usize),
    /// As long as something may still be read.
    readable: Option<watch::Sender<()>>,
}

trait Transfer: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Transfer for T {}

impl Socket {
    pub(crate) fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Socket {
            stream: Box::pin(stream),
            greeting: None,
            frames: Frames::default(),
            begun: Vec::new(),
            ready: (Vec::new(), 0),
            readable: None,
        }
    }

    /// With what resolves when nothing comes from it any more.
    pub(crate) fn with_end(mut self) -> (Self, impl Future<Output = ()> + Send) {
        let (here, mut ended) = watch::channel(());
        self.readable = Some(here);
        // Nothing is ever sent: this is the end of the sender.
        (self, async move { drop(ended.changed().await) })
    }

    /// Ends the connection if the broker doesn't begin like that.
    pub(crate) fn expecting(mut self, greeting: Greeting) -> Self {
        self.greeting = Some(greeting);
        self
    }
}

impl Socket {
    fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let read = ready!(self.stream.as_mut().poll_read(context, &mut buffer));
        if read.is_err() || buffer.filled().is_empty() {
            self.readable = None;
        }
        read?;
        if let Some(greeting) = &mut self.greeting
            && let Some(heard) = greeting.add(buffer.filled())
        {
            self.greeting = None;
            heard.map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Takes what was read, and answers how much of it is at the begin of `buffer` now: the rest waits.
    fn put_right(&mut self, buffer: &mut [u8], read: usize) -> usize {
        let bytes = &mut buffer[..read];
        if self.begun.is_empty() {
            let whole = self.frames.put_right(bytes);
            self.begun.extend_from_slice(&bytes[whole..]);
            return whole;
        }
        self.begun.extend_from_slice(bytes);
        let whole = self.frames.put_right(&mut self.begun);
        let begun = self.begun.split_off(whole);
        self.ready = (std::mem::replace(&mut self.begun, begun), 0);
        self.take_ready(buffer)
    }

    fn take_ready(&mut self, buffer: &mut [u8]) -> usize {
        let (ready, taken) = &mut self.ready;
        let rest = &ready[*taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        *taken += count;
        count
    }
}

impl futures_io::AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let taken = self.take_ready(buffer);
        if taken > 0 {
            return Poll::Ready(Ok(taken));
        }
        loop {
            let read = ready!(self.poll_stream(context, buffer))?;
            let whole = self.put_right(buffer, read);
            if read == 0 || whole > 0 {
                return Poll::Ready(Ok(whole));
            }
        }
    }
}

impl futures_io::AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, parts)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }
}

/// Shuts a socket down when it is dropped: lapin's thread waits for a silent broker as long as the socket lives, whether
/// or not somebody waits for the connection.
pub(crate) struct Abandon(Option<std::net::TcpStream>);

impl Abandon {
    /// Lets the socket live.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Abandon {
    fn drop(&mut self) {
        if let Some(socket) = &self.0 {
            // It may be closed already.
            drop(socket.shutdown(Shutdown::Both));
        }
    }
}

/// Connects to the first address of `host` that answers.
pub(crate) async fn connect(host: &str, port: u16) -> io::Result<(TcpStream, Abandon)> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let stream = stream.into_std()?;
    let abandon = Abandon(Some(stream.try_clone()?));
    Ok((TcpStream::from_std(stream)?, abandon))
}

/// Lapin's runtime: tokio, with our sockets.
#[derive(Clone, Debug)]
pub(crate) struct Kit(Tokio);

impl Kit {
    pub(crate) fn current() -> Self {
        Kit(Tokio::current())
    }
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Kit {
    type TcpStream = Socket;
    type Sleep = <Tokio as Reactor>::Sleep;

    /// Never called, as is the other one: lapin is given a socket.
    fn register<H: Read + Write + Send + 'static>(
        &self,
        _handle: H,
    ) -> io::Result<impl futures_io::AsyncRead + futures_io::AsyncWrite + Send + Unpin + 'static>
    {
        Err::<Socket, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Socket")
    }
}
