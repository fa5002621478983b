use std::fmt;
use std::future::Future;
use std::str::FromStr;

use crate::driver::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::field::FieldValue;
use crate::message::Content;
use crate::name::Name;

use super::Interceptor;

const TRACEPARENT: Name = Name::from_static("traceparent");
const TRACESTATE: Name = Name::from_static("tracestate");

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Which trace a message belongs to, and which span of it published the message: a
/// [W3C trace context](https://www.w3.org/TR/trace-context/).
///
/// [`Content::trace_context`] reads it from a message, and [`CarryTrace`] adds it to what is published. A handler
/// that runs in the [`scope`](TraceContext::scope) of its delivery's context continues the trace:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use kombu::{CarryTrace, Connection, Delivery, Exchange, Producer, Queue};
///
/// async fn handle(order: Delivery, producer: &Producer) -> kombu::Result<()> {
///     producer.publish_text("to be paid").routing_key("bills").await?;
///     order.ack().await
/// }
///
/// let connection = Connection::builder(kombu::registry())
///     .url("memory://")
///     .intercept(CarryTrace::default())
///     .await?;
/// for queue in ["orders", "bills"] {
///     connection.declare_queue(&Queue::new(queue)).await?;
/// }
/// let producer = connection.producer(Exchange::default()).await?;
/// let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// producer.publish(&7).routing_key("orders").header("traceparent", traceparent).await?;
///
/// let order = connection.get("orders").await?.expect("an order");
/// match order.trace_context() {
///     Some(context) => context.scope(handle(order, &producer)).await?,
///     None => handle(order, &producer).await?,
/// }
/// let bill = connection.get("bills").await?.expect("a bill");
/// let context = bill.trace_context().expect("that of the order");
/// assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// bill.ack().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Of version 00, and valid.
    traceparent: Name,
    tracestate: Option<Name>,
}

impl TraceContext {
    /// The context that these two header values describe; `None` if the `traceparent` is malformed.
    ///
    /// A `tracestate` that is malformed, has more than 32 members or is longer than 512 characters is dropped; the
    /// rest stays. A `traceparent` of a version after 00 is read as far as version 00 goes, as the specification asks.
    ///
    /// ```
    /// use kombu::TraceContext;
    ///
    /// let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    /// let context = TraceContext::parse(traceparent, Some("congo=t61rcWkgMzE")).expect("a context");
    /// assert_eq!(context.parent_id(), "b7ad6b7169203331");
    /// assert!(context.is_sampled());
    /// assert_eq!(context.tracestate(), Some("congo=t61rcWkgMzE"));
    ///
    /// assert_eq!(TraceContext::parse("no traceparent", Some("congo=t61rcWkgMzE")), None);
    /// ```
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        Some(TraceContext {
            traceparent: parse_traceparent(traceparent)?,
            tracestate: tracestate.and_then(parse_tracestate),
        })
    }

    /// The innermost [`scope`](TraceContext::scope) around the code that asks; `None` outside of any.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Makes this the [current](TraceContext::current) context within `future`: what is published there carries it,
    /// where [`CarryTrace::default`] is an interceptor.
    ///
    /// A publish belongs to the scope in which it is first awaited. A scope ends at the borders of its task: what
    /// `future` spawns is outside, unless it is given a scope of its own.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> kombu::Result<()> {
    /// use kombu::TraceContext;
    ///
    /// let context: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
    /// let task = tokio::spawn(context.clone().scope(async { TraceContext::current() }));
    /// assert_eq!(task.await.expect("no panic"), Some(context));
    /// assert_eq!(TraceContext::current(), None);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancellation
    ///
    /// Dropping the scope drops `future`, and nothing else.
    pub fn scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, future)
    }

    /// The trace, as 32 lower-case hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.traceparent.get(3..35).unwrap_or_default()
    }

    /// The span that published the message, as 16 lower-case hexadecimal digits.
    pub fn parent_id(&self) -> &str {
        self.traceparent.get(36..52).unwrap_or_default()
    }

    /// Whether that span may have been recorded.
    pub fn is_sampled(&self) -> bool {
        self.traceparent.get(53..).is_some_and(is_sampled)
    }

    /// The value of the header `traceparent`, in version 00.
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// The value of the header `tracestate`: what tracing systems add to the context, for themselves.
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }
}

impl FromStr for TraceContext {
    type Err = Error;

    /// Reads a `traceparent`; the context has no `tracestate`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if it is malformed.
    fn from_str(traceparent: &str) -> Result<Self> {
        Self::parse(traceparent, None).ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "a traceparent is `00-<trace id>-<parent id>-<flags>` with 32, 16 and 2 lower-case hexadecimal \
                 digits, and ids that aren't zero; leave it out to begin a new trace",
            )
        })
    }
}

impl fmt::Display for TraceContext {
    /// The `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.traceparent, f)
    }
}

impl Content {
    /// The trace context in the headers `traceparent` and `tracestate`, each as text or as bytes; `None` if there is
    /// no `traceparent`, or a malformed one.
    ///
    /// The headers themselves stay as they are, and are found by these names in lower case. What they say is only as
    /// trustworthy as who published them.
    pub fn trace_context(&self) -> Option<TraceContext> {
        let text = |name: Name| match self.headers.get(&name)? {
            FieldValue::Text(text) => Some(text.as_str()),
            FieldValue::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        };
        TraceContext::parse(text(TRACEPARENT)?, text(TRACESTATE))
    }
}

/// An [`Interceptor`] that adds the current [`TraceContext`] to what is published, as the headers `traceparent` and
/// `tracestate`.
///
/// A message that brings one of these headers keeps its own, and where it brings a `traceparent`, nothing is added.
/// Where there is no current context, messages stay as they are.
///
/// The default takes the context of the innermost [`scope`](TraceContext::scope); [`CarryTrace::new`] takes it from
/// elsewhere.
///
/// # OpenTelemetry
///
/// A propagator writes the context of the current span into a map, which two lines turn into a [`TraceContext`]. In
/// the other direction, a propagator extracts it from a map with `traceparent` and `tracestate`, and what it extracts
/// is the parent of the span in which a delivery is handled.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> kombu::Result<()> {
/// use std::collections::HashMap;
///
/// use kombu::{CarryTrace, Connection, TraceContext};
///
/// # fn inject(_: &mut HashMap<String, String>) {}
/// let carry = CarryTrace::new(|| {
///     let mut carrier = HashMap::new();
///     // With the crate `opentelemetry`: get_text_map_propagator(|it| it.inject(&mut carrier))
///     inject(&mut carrier);
///     let tracestate = carrier.get("tracestate").map(String::as_str);
///     TraceContext::parse(carrier.get("traceparent")?, tracestate)
/// });
/// let connection = Connection::builder(kombu::registry()).url("memory://").intercept(carry).await?;
/// # Ok(())
/// # }
/// ```
pub struct CarryTrace {
    current: Box<dyn Fn() -> Option<TraceContext> + Send + Sync>,
}

impl CarryTrace {
    /// Takes the context from `current`, which is asked once for each message without a `traceparent`, in the task
    /// that publishes, and must not block.
    pub fn new(current: impl Fn() -> Option<TraceContext> + Send + Sync + 'static) -> Self {
        CarryTrace {
            current: Box::new(current),
        }
    }
}

impl Default for CarryTrace {
    fn default() -> Self {
        CarryTrace::new(TraceContext::current)
    }
}

impl fmt::Debug for CarryTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CarryTrace").finish_non_exhaustive()
    }
}

impl Interceptor for CarryTrace {
    fn on_publish<'a>(&'a self, content: &'a mut Content) -> BoxFuture<'a, Result<()>> {
        let headers = content.headers_mut();
        if !headers.contains(&TRACEPARENT)
            && let Some(context) = (self.current)()
        {
            headers.insert(TRACEPARENT, context.traceparent);
            if let Some(tracestate) = context.tracestate
                && !headers.contains(&TRACESTATE)
            {
                headers.insert(TRACESTATE, tracestate);
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What a valid `traceparent` says, in version 00.
fn parse_traceparent(text: &str) -> Option<Name> {
    let (known, rest) = text.split_at_checked(55)?;
    let mut fields = known.split('-');
    let mut digits = |count| fields.next().filter(|field| is_hex(field, count));
    let (version, trace_id, parent_id, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
    if is_zero(trace_id) || is_zero(parent_id) {
        return None;
    }
    match version {
        "ff" => None,
        "00" => rest.is_empty().then(|| text.into()),
        _ if !rest.is_empty() && !rest.starts_with('-') => None,
        // What it says besides, only its own version knows, and so it isn't passed on.
        _ => {
            let sampled = u8::from(is_sampled(flags));
            Some(format!("00-{trace_id}-{parent_id}-0{sampled}").into())
        }
    }
}

fn is_hex(field: &str, count: usize) -> bool {
    field.len() == count
        && field
            .bytes()
            .all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(id: &str) -> bool {
    id.bytes().all(|c| c == b'0')
}

fn is_sampled(flags: &str) -> bool {
    u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1)
}

const MAX_TRACESTATE_MEMBERS: usize = 32;
const MAX_TRACESTATE_LEN: usize = 512;
const BLANK: [char; 2] = [' ', '\t'];

/// A valid `tracestate` that says something.
fn parse_tracestate(text: &str) -> Option<Name> {
    if text.len() > MAX_TRACESTATE_LEN || text.split(',').count() > MAX_TRACESTATE_MEMBERS {
        return None;
    }
    let mut members = text.split(',').map(|member| member.trim_matches(BLANK));
    let says_nothing = members.clone().all(str::is_empty);
    let is_valid = members.all(|member| member.is_empty() || is_member(member));
    (is_valid && !says_nothing).then(|| text.trim_matches(BLANK).into())
}

/// By the grammar of the specification's second level, which allows all keys of the first one and some more.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else {
        return false;
    };
    let begins = |c: u8| matches!(c, b'a'..=b'z' | b'0'..=b'9');
    let in_key = |c: u8| begins(c) || matches!(c, b'_' | b'-' | b'*' | b'/' | b'@');
    (1..=256).contains(&key.len())
        && key.bytes().next().is_some_and(begins)
        && key.bytes().all(in_key)
        && (1..=256).contains(&value.len())
        && value.bytes().all(|c| matches!(c, b' '..=b'~') && c != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT_ID: &str = "00f067aa0ba902b7";

    fn traceparent(version: &str, flags: &str) -> String {
        format!("{version}-{TRACE_ID}-{PARENT_ID}-{flags}")
    }

    fn state_kept(tracestate: &str) -> Option<String> {
        let context = TraceContext::parse(&traceparent("00", "01"), Some(tracestate)).unwrap();
        assert_eq!(context.traceparent(), traceparent("00", "01"));
        context.tracestate().map(str::to_owned)
    }

    #[test]
    fn the_fields_of_the_specifications_examples_are_read() {
        for (flags, sampled) in [("01", true), ("00", false), ("09", true), ("fe", false)] {
            let text = traceparent("00", flags);
            let context: TraceContext = text.parse().unwrap();
            assert_eq!(context.trace_id(), TRACE_ID);
            assert_eq!(context.parent_id(), PARENT_ID);
            assert_eq!(context.is_sampled(), sampled, "{flags}");
            assert_eq!(context.traceparent(), text);
            assert_eq!(context.to_string(), text);
            assert_eq!(context.tracestate(), None);
        }
    }

    #[test]
    fn a_malformed_traceparent_is_none() {
        let valid = traceparent("00", "01");
        let with = |from: &str, to: &str| {
            let text = valid.replacen(from, to, 1);
            assert_ne!(text, valid);
            text
        };
        let malformed = [
            String::new(),
            "-".into(),
            "-".repeat(55),
            "0".repeat(55),
            "00".into(),
            valid[..54].into(),
            format!("{valid}0"),
            format!("{valid}-"),
            format!("{valid}-what-comes"),
            format!(" {valid}"),
            format!("{valid} "),
            format!("{valid}\n"),
            with("4bf9", "4BF9"),
            with("4bf9", "4bg9"),
            with("4bf9", "+bf9"),
            with("4bf9", "4bf"),
            with("4bf9", "4bf99"),
            with("00f067aa", "00F067AA"),
            with("-00f067aa", "00f067aa-"),
            with("b7-01", "b7-0x"),
            with("b7-01", "b7-0A"),
            with("b7-01", "b7_01"),
            with("b7-01", "b701-"),
            with("00-4", "0-04"),
            with("00-", "0x-"),
            with("00-", "0F-"),
            with(TRACE_ID, &"0".repeat(32)),
            with(PARENT_ID, &"0".repeat(16)),
            // As many bytes, and not as many characters; and a character across the last byte.
            with("4bf9", "éé"),
            format!("{}é", &valid[..54]),
            traceparent("ff", "01"),
            format!("{}-more", traceparent("ff", "01")),
        ];
        for text in malformed {
            assert_eq!(TraceContext::parse(&text, Some("a=1")), None, "{text:?}");
            let error = text.parse::<TraceContext>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_version_00() {
        for (text, flags) in [
            (traceparent("01", "01"), "01"),
            (traceparent("cc", "00"), "00"),
            (traceparent("cc", "ff"), "01"),
            (traceparent("fe", "02"), "00"),
            (format!("{}-", traceparent("cc", "01")), "01"),
            (format!("{}-what.the/future", traceparent("cc", "01")), "01"),
            (format!("{}-é", traceparent("cc", "01")), "01"),
            (
                format!("{}-{}", traceparent("cc", "01"), "x".repeat(100_000)),
                "01",
            ),
        ] {
            let context = TraceContext::parse(&text, None).unwrap();
            assert_eq!(
                context.traceparent(),
                traceparent("00", flags),
                "{text:.99}"
            );
        }
    }

    #[test]
    fn a_later_version_is_malformed_where_version_00_would_be() {
        for text in [
            traceparent("cc", "0x"),
            traceparent("cc", "1"),
            format!("{}.what", traceparent("cc", "01")),
            format!("{}1", traceparent("cc", "01")),
            traceparent("cc", "01").replace(TRACE_ID, &"0".repeat(32)),
            traceparent("cc", "01").replace(PARENT_ID, &PARENT_ID.to_uppercase()),
        ] {
            assert_eq!(TraceContext::parse(&text, None), None, "{text:?}");
        }
    }

    #[test]
    fn a_valid_tracestate_is_kept_as_it_came() {
        let long_key = format!("{}=1", "k".repeat(256));
        let long_value = format!("k={}", "v".repeat(256));
        for text in [
            "congo=t61rcWkgMzE",
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "rojo=1 ,\tcongo=2",
            "rojo=1,,congo=2,",
            "fw529a3039@dt=FfTu;a b!~",
            "0=1",
            "a_-*/@=:<>",
            "a= 1",
            "a=1,a=2",
            &long_key,
            &long_value,
        ] {
            assert_eq!(state_kept(text).as_deref(), Some(text));
        }
        assert_eq!(state_kept("\t a=1 \t").as_deref(), Some("a=1"));
    }

    #[test]
    fn a_malformed_tracestate_is_dropped_and_its_traceparent_stays() {
        let long_key = format!("{}=1", "k".repeat(257));
        let long_value = format!("k={}", "v".repeat(257));
        for text in [
            "congo",
            "congo=",
            "congo= ",
            "=1",
            "=",
            "a =1",
            "A=1",
            "a.b=1",
            "@a=1",
            "_a=1",
            "a=1=2",
            "a=\u{7f}",
            "a=1\u{1}2",
            "a=1\t2",
            "a=1\n",
            "a=é",
            "é=1",
            "a=1;b=2",
            "a=1,B=2",
            &long_key,
            &long_value,
        ] {
            assert_eq!(state_kept(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_empty_tracestate_is_none() {
        for text in ["", " ", "\t", ",", " , ,\t"] {
            assert_eq!(state_kept(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_tracestate_of_32_members_is_kept_and_one_of_33_is_dropped() {
        let members = |count| vec!["a=1"; count].join(",");
        assert_eq!(state_kept(&members(32)), Some(members(32)));
        assert_eq!(state_kept(&members(33)), None);
    }

    #[test]
    fn a_tracestate_of_512_characters_is_kept_and_one_of_513_is_dropped() {
        let long = |len: usize| format!("a={},b={}", "v".repeat(250), "v".repeat(len - 255));
        assert_eq!(state_kept(&long(511)), Some(long(511)));
        // Each value is within its own limit.
        let of = |len: usize| format!("{},c=1", long(len - 4));
        assert_eq!(of(512).len(), 512);
        assert_eq!(state_kept(&of(512)), Some(of(512)));
        assert_eq!(state_kept(&of(513)), None);
    }

    #[test]
    fn headers_may_be_text_or_bytes() {
        let text = traceparent("00", "01");
        let as_text = FieldValue::from(text.as_str());
        let as_bytes = FieldValue::Bytes(Bytes::from(text.clone()));
        let state = FieldValue::Bytes(Bytes::from_static(b"a=1"));
        for value in [as_text, as_bytes] {
            let mut content = Content::new(Name::EMPTY, Name::EMPTY, Bytes::new());
            assert_eq!(content.trace_context(), None);
            content.headers_mut().insert("tracestate", &state);
            assert_eq!(content.trace_context(), None, "no traceparent");
            content.headers_mut().insert("traceparent", value);
            let context = content.trace_context().unwrap();
            assert_eq!(context.traceparent(), text);
            assert_eq!(context.tracestate(), Some("a=1"));
            content.headers_mut().insert("tracestate", 7);
            let context = content.trace_context().unwrap();
            assert_eq!(context.tracestate(), None);
        }
    }

    #[test]
    fn headers_of_other_types_or_encodings_are_none() {
        for value in [
            FieldValue::Void,
            FieldValue::I32(0),
            FieldValue::Bytes(Bytes::from_static(&[0xff; 55])),
            FieldValue::Array(vec![traceparent("00", "01").into()]),
        ] {
            let mut content = Content::new(Name::EMPTY, Name::EMPTY, Bytes::new());
            content.headers_mut().insert("traceparent", value);
            assert_eq!(content.trace_context(), None);
        }
    }
}
