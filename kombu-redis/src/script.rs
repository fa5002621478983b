//! The scripts that run on the server.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Value};

/// What a script does is said at its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    Connect,
    Load,
    Current,
    Apply,
    Push,
    Take,
    Subscribe,
    Leave,
    Want,
    Finish,
    TakeDead,
    Tick,
    Retire,
    End,
    Info,
    Purge,
    Other,
    LeaveFor,
    Look,
    Hear,
}

const COUNT: usize = Script::Hear as usize + 1;

macro_rules! source {
    ($file:literal) => {
        (
            $file,
            concat!(
                include_str!("scripts/prelude.lua"),
                include_str!("scripts/common.lua"),
                include_str!(concat!("scripts/", $file))
            ),
        )
    };
}

/// For scripts that are called all the time, and seldom need what the others share: a function costs when it is made.
macro_rules! lean_source {
    ($file:literal $(, with $with:literal)?) => {
        (
            $file,
            concat!(
                include_str!("scripts/prelude.lua"),
                "local made\nlocal function common()\n  if made then return made end\n",
                include_str!("scripts/common.lua"),
                "made = {adopt = adopt, back = back, bury = bury, counted = counted, forget = forget, holds_rows = holds_rows, is_taken = is_taken, limits = limits, look_at_head = look_at_head, put = put, ",
                "put_later = put_later, remark = remark, size = size, touch = touch, write_in_any_case = write_in_any_case}\n",
                "return made\nend\n",
                $(include_str!(concat!("scripts/", $with)),)?
                include_str!(concat!("scripts/", $file))
            ),
        )
    };
}

/// By the names of their files.
const SOURCES: [(&str, &str); COUNT] = [
    source!("connect.lua"),
    source!("load.lua"),
    source!("current.lua"),
    source!("apply.lua"),
    lean_source!("push.lua", with "handing.lua"),
    lean_source!("take.lua"),
    source!("subscribe.lua"),
    source!("leave.lua"),
    source!("want.lua"),
    lean_source!("finish.lua", with "handing.lua"),
    source!("take_dead.lua"),
    source!("tick.lua"),
    source!("retire.lua"),
    source!("end.lua"),
    source!("info.lua"),
    source!("purge.lua"),
    source!("other.lua"),
    source!("leave_for.lua"),
    source!("look.lua"),
    source!("hear.lua"),
];

static SCRIPTS: LazyLock<[redis::Script; COUNT]> =
    LazyLock::new(|| SOURCES.map(|(_, source)| redis::Script::new(source)));

impl Script {
    /// A call of it; the arguments follow.
    pub(crate) fn call(self, prefix: &str) -> Cmd {
        self.call_with(prefix, 0, 0)
    }

    /// The same, with room for so many arguments of so many bytes together.
    pub(crate) fn call_with(self, prefix: &str, arguments: usize, bytes: usize) -> Cmd {
        // What every call has.
        let mut command = Cmd::with_capacity(arguments + 4, bytes + prefix.len() + 64);
        command
            .arg("EVALSHA")
            .arg(SCRIPTS[self as usize].get_hash())
            .arg(0)
            .arg(prefix);
        command
    }
}

/// Has the server learn all of them.
pub(crate) fn load_all() -> Pipeline {
    let mut pipeline = redis::pipe();
    for (_, source) in SOURCES {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(source);
    }
    pipeline
}

/// Whether the server doesn't know a script, and so has done nothing.
pub(crate) fn is_unknown(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// The names of the scripts' files, each with the digest by which the server knows it: for tests that look for calls.
pub fn digests() -> impl Iterator<Item = (&'static str, &'static str)> {
    let names = SOURCES.iter().map(|(name, _)| *name);
    names.zip(SCRIPTS.iter().map(redis::Script::get_hash))
}
