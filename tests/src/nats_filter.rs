use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

/// A way to a NATS server on which what is asked for may find nobody, or lose its answer, as where the server that has to answer
/// is gone while the one that the line leads to lives.
#[derive(Debug)]
pub struct NatsFilter {
    address: SocketAddr,
    state: watch::Sender<State>,
    _lines: JoinSet<()>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Parts of subjects at which nobody is there.
    refused: Vec<String>,
    /// The same with the error that the server answers.
    failing: Vec<(String, u64)>,
    /// The same where the answer is lost.
    muted: Vec<String>,
    /// The same where the answer is late.
    delayed: Vec<(String, Duration)>,
    /// What was asked for so far.
    subjects: Vec<String>,
    /// The subjects of answers that are to be lost.
    lost: Vec<String>,
    /// Those of answers that are to come late.
    late: HashMap<String, Duration>,
    /// What clients listen at, and the numbers of that.
    listening: Vec<(String, String)>,
    /// Whether the server says that it isn't alone.
    in_cluster: bool,
}

impl NatsFilter {
    /// Starts one in front of `server` (`host:port`).
    ///
    /// # Panics
    ///
    /// If no port is free.
    pub async fn start(server: impl Into<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (server, state) = (server.into(), watch::Sender::default());
        let mut lines = JoinSet::new();
        let shared = state.clone();
        lines.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(&server).await {
                    lines.spawn(carry(client, server, shared.clone()));
                }
            }
        });
        NatsFilter {
            address,
            state,
            _lines: lines,
        }
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// From now on, whoever connects is told that there are other servers.
    pub fn claim_cluster(&self) {
        self.state.send_modify(|state| state.in_cluster = true);
    }

    /// From now on, nobody is there for what is asked at subjects with this part.
    pub fn refuse(&self, part: &str) {
        self.state
            .send_modify(|state| state.refused.push(part.to_owned()));
    }

    /// From now on, JetStream has this error for what is sent to subjects with this part.
    pub fn fail(&self, part: &str, error: u64) {
        self.state
            .send_modify(|state| state.failing.push((part.to_owned(), error)));
    }

    /// From now on, what is asked at subjects with this part is done, and its answers are lost.
    pub fn mute(&self, part: &str) {
        self.state
            .send_modify(|state| state.muted.push(part.to_owned()));
    }

    /// From now on, answers to what is asked at subjects with this part come so much later, each for itself.
    pub fn delay(&self, part: &str, time: Duration) {
        self.state
            .send_modify(|state| state.delayed.push((part.to_owned(), time)));
    }

    /// From now on, all is as it should be.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            state.refused.clear();
            state.failing.clear();
            state.muted.clear();
            state.delayed.clear();
        });
    }

    /// How often something was sent to subjects with this part.
    pub fn count(&self, part: &str) -> usize {
        count(&self.state.borrow(), part)
    }

    /// Waits until something was sent to subjects with this part so often.
    pub async fn until(&self, part: &str, times: usize) {
        let mut state = self.state.subscribe();
        let seen = state.wait_for(|state| count(state, part) >= times);
        seen.await.expect("it is there");
    }
}

fn count(state: &State, part: &str) -> usize {
    let subjects = state.subjects.iter();
    subjects.filter(|subject| subject.contains(part)).count()
}

async fn carry(client: TcpStream, server: TcpStream, state: watch::Sender<State>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let to_client = Arc::new(Mutex::new(to_client));
    // An error of either side is its end, and so the other's.
    tokio::select! {
        _ = pass_questions(from_client, to_server, to_client.clone(), &state) => {}
        _ = pass_answers(from_server, to_client.clone(), &state) => {}
    }
}

/// A line, its words, and what comes with it.
async fn read(from: &mut BufReader<OwnedReadHalf>) -> io::Result<(Vec<u8>, Vec<String>)> {
    let mut all = Vec::new();
    if from.read_until(b'\n', &mut all).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = String::from_utf8_lossy(&all).into_owned();
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    words.resize(words.len().max(1), String::new());
    let is_message = ["PUB", "HPUB", "MSG", "HMSG"].contains(&words[0].as_str());
    if is_message && let Some(Ok(length)) = words.last().map(|length| length.parse::<usize>()) {
        let begin = all.len();
        all.resize(begin + length + 2, 0);
        from.read_exact(&mut all[begin..]).await?;
    }
    Ok((all, words))
}

async fn pass_questions(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    back: Arc<Mutex<OwnedWriteHalf>>,
    state: &watch::Sender<State>,
) -> io::Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let (all, words) = read(&mut from).await?;
        let mut answer = None;
        state.send_modify(|state| match words[0].as_str() {
            "SUB" => {
                let listening = (words[1].clone(), words[words.len() - 1].clone());
                state.listening.push(listening);
            }
            "PUB" | "HPUB" => {
                let subject = &words[1];
                let own = if words[0] == "PUB" { 1 } else { 2 };
                let reply = (words.len() > own + 2).then(|| words[2].clone());
                state.subjects.push(subject.clone());
                let is_in = |parts: &[String]| parts.iter().any(|part| subject.contains(part));
                let mut delayed = state.delayed.iter();
                if let Some((_, time)) = delayed.find(|(part, _)| subject.contains(part)) {
                    let reply = reply.clone().map(|reply| (reply, *time));
                    state.late.extend(reply);
                }
                let mut failing = state.failing.iter();
                let failing = failing.find(|(part, _)| subject.contains(part));
                if is_in(&state.muted) {
                    state.lost.extend(reply);
                } else if is_in(&state.refused) {
                    let text = "NATS/1.0 503\r\n\r\n".to_owned();
                    answer =
                        Some(reply.and_then(|reply| state.answer("HMSG", &reply, "16 16", &text)));
                } else if let Some((_, error)) = failing {
                    let text = format!(r#"{{"error":{{"code":500,"err_code":{error}}}}}"#);
                    let length = text.len().to_string();
                    answer =
                        Some(reply.and_then(|reply| state.answer("MSG", &reply, &length, &text)));
                }
            }
            _ => {}
        });
        match answer {
            None => to.write_all(&all).await?,
            Some(None) => {}
            Some(Some(text)) => back.lock().await.write_all(text.as_bytes()).await?,
        }
    }
}

impl State {
    /// What a client is told that waits for an answer at a subject.
    fn answer(&self, verb: &str, reply: &str, length: &str, text: &str) -> Option<String> {
        let inbox = reply.rsplit_once('.').map_or("", |(inbox, _)| inbox);
        let all = format!("{inbox}.*");
        let mut listening = self.listening.iter().rev();
        let (_, number) = listening.find(|(at, _)| at == reply || *at == all)?;
        Some(format!("{verb} {reply} {number} {length}\r\n{text}\r\n"))
    }
}

async fn pass_answers(
    from: OwnedReadHalf,
    to: Arc<Mutex<OwnedWriteHalf>>,
    state: &watch::Sender<State>,
) -> io::Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let (mut all, words) = read(&mut from).await?;
        if words[0] == "INFO" && state.borrow().in_cluster {
            let begin = "INFO {".len();
            all.splice(begin..begin, *br#""cluster":"c","#);
        }
        let is_message = ["MSG", "HMSG"].contains(&words[0].as_str());
        if is_message && state.borrow().lost.contains(&words[1]) {
            continue;
        }
        let late = words
            .get(1)
            .and_then(|at| state.borrow().late.get(at).copied());
        match late.filter(|_| is_message) {
            None => to.lock().await.write_all(&all).await?,
            Some(time) => {
                let to = to.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    // The client may be gone by then.
                    drop(to.lock().await.write_all(&all).await);
                });
            }
        }
    }
}
