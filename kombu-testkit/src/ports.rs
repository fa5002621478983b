use std::io;
use std::net::TcpListener;
use std::ops::Range;

/// Below the ports that a system takes for outgoing connections. One of those could be taken by a client's connection
/// while the broker restarts; worse, a client that keeps trying to reach such a port in the end connects to itself.
const PORTS: Range<u16> = 10_000..32_000;

/// A port of the loopback interface, open: nobody else gets it before the listener is dropped.
///
/// # Errors
///
/// If none is found.
pub(crate) fn listen() -> io::Result<TcpListener> {
    let mut result = Err(io::Error::other("no port was tried"));
    for _ in 0..100 {
        result = TcpListener::bind(("127.0.0.1", fastrand::u16(PORTS)));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Different ports that nobody listens on at the moment. Somebody else may be faster: whoever starts a program there
/// tries again.
#[cfg(all(feature = "brokers", unix))]
pub(crate) fn free<const N: usize>() -> io::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = listen()?;
        *port = listener.local_addr()?.port();
        // Kept open until all are found, so that none is found twice.
        listeners.push(listener);
    }
    Ok(ports)
}
