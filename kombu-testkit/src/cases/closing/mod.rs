//! What is over is over: for the program, which is told, and for the messages, which go back.

pub mod connections;
pub mod deliveries;
pub mod producers;
