//! Starts a Redis of its own, prints its address and the path of its unix socket, and waits to be killed: for a test of
//! what it leaves behind.

// A program for tests says no by panicking.
#![allow(clippy::expect_used)]

use kombu_testkit::brokers::Redis;

fn main() {
    let redis = Redis::builder().unix_socket().start();
    let redis = redis.expect("Redis starts");
    let socket = redis.unix_socket().expect("it was asked for one");
    println!("{}\n{}", redis.address(), socket.display());
    loop {
        std::thread::park();
    }
}
