//! What the walsender sends when it attacks.

use fastrand::Rng;
use rsrepl_wire::limits::FRAME_MAX;

use crate::frames;
use crate::walsender::{Attack, Stage, Then, keepalive, message, rows, xlog_data};

const MIB: usize = 1 << 20;

/// Bytes that are sent of what never ends: refused long before, or it shows in the memory.
const FLOOD: usize = 300 * MIB;

/// The largest frame's message, of which so much comes: this is taken, as rows may be large.
pub const TAKEN: usize = 96 * MIB;

fn attack(name: impl Into<String>, stage: Stage, head: Vec<u8>) -> Attack {
    Attack { name: name.into(), stage, head, again: (Vec::new(), 0), then: Then::Refused }
}

/// The server ends the connection then: it may be that all of it is a part of something.
fn closed(name: impl Into<String>, stage: Stage, head: Vec<u8>) -> Attack {
    Attack { then: Then::Closed, ..attack(name, stage, head) }
}

fn flood(name: &str, stage: Stage, head: Vec<u8>, part: Vec<u8>) -> Attack {
    Attack { again: (part, FLOOD), ..attack(name, stage, head) }
}

/// Tag and length of a message.
fn head(tag: u8, len: u32) -> Vec<u8> {
    [&[tag][..], &len.to_be_bytes()].concat()
}

/// Of an ErrorResponse, NoticeResponse or ParameterStatus that is so long.
fn texts(tag: u8, len: usize) -> Vec<u8> {
    [&head(tag, len as u32 + 4)[..], b"M"].concat()
}

/// To be refused before the stream begins.
fn before_the_stream(rng: &mut Rng) -> Vec<Attack> {
    let random: Vec<u8> = (0..4096).map(|_| rng.u8(..)).collect();
    let text = vec![b'x'; MIB / 2];
    let large_row = rows(&[Some(&*"x".repeat(MIB - 64))]);
    let nulls = rows(&vec![None; 32_767]);
    let setting = message(b'S', &[&b"a\0"[..], &text, b"\0"].concat());
    let notice = message(b'N', &[&b"M"[..], &text, b"\0\0"].concat());
    let slot = Stage::Query("pg_replication_slots");
    let system = Stage::Query("IDENTIFY_SYSTEM");
    let row = |columns: &[Option<&str>]| {
        [rows(columns), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat()
    };
    vec![
        closed("random bytes", Stage::Startup, random.clone()),
        attack("HTTP", Stage::Startup, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        attack("an unknown authentication", Stage::Startup, message(b'R', &[0xFF; 4])),
        attack("no authentication at all", Stage::Startup, message(b'R', b"")),
        attack(
            "mechanisms that do not end",
            Stage::Startup,
            message(b'R', &[&10u32.to_be_bytes()[..], &text].concat()),
        ),
        attack("rounds of SCRAM", Stage::Scram(u32::MAX), Vec::new()),
        attack("a length of 2 GiB", Stage::Startup, head(b'R', 0x7FFF_FFFF)),
        attack("a negative length", Stage::Startup, head(b'E', 0x8000_0000)),
        attack("a length of 3", Stage::Startup, head(b'R', 3)),
        flood("a long error", Stage::Startup, texts(b'E', FLOOD), text.clone()),
        flood("notices before the session", Stage::Startup, Vec::new(), notice),
        flood("settings before the session", Stage::Startup, message(b'R', &[0; 4]), setting),
        closed("the end in a head", Stage::Startup, b"R\0".into()),
        closed("random bytes for an answer", slot, random),
        flood("rows that are large and many", slot, Vec::new(), large_row),
        flood("rows of many columns", system, Vec::new(), nulls),
        attack("a row of no columns", system, row(&[])),
        attack("a system of words", system, row(&[Some("x"), Some("1"), Some("0/1"), Some("d")])),
        attack("a timeline below 0", system, row(&[Some("7"), Some("-1"), Some("0/1"), None])),
        attack("no end of the WAL", system, row(&[Some("7"), Some("1"), None, Some("d")])),
        attack(
            "columns that are not there",
            slot,
            message(b'D', &[&0x7FFFu16.to_be_bytes()[..], &[0; 8]].concat()),
        ),
        closed("a field below NULL", slot, message(b'D', &[0, 1, 0xFF, 0xFF, 0xFF, 0])),
        attack("CopyIn for an answer", slot, message(b'G', &[0, 0, 0])),
        attack("no stream", Stage::Query("START_REPLICATION"), message(b'H', &[0, 0, 0])),
        flood(
            "a long error for a stream",
            Stage::Query("START_REPLICATION"),
            texts(b'E', FLOOD),
            text,
        ),
    ]
}

/// To be refused in the stream.
pub fn in_the_stream(rng: &mut Rng) -> Vec<Attack> {
    let stream = |name: &str, bytes: Vec<u8>| attack(name, Stage::Stream, bytes);
    let random: Vec<u8> = (0..4096).map(|_| rng.u8(..)).collect();
    let part = vec![b'x'; MIB / 2];
    // of the far future: whatever it says of positions would pass everything that is whole
    let far = u32::MAX / 2;
    let smuggled = xlog_data(&frames::transaction(far, b"smuggled"));
    let end = u64::from(far) * frames::STEP;
    let mut all = vec![
        closed("random bytes", Stage::Stream, random),
        stream("copy data of 2 GiB", head(b'd', 0x7FFF_FFFF)),
        stream("copy data of 4 GiB", head(b'd', u32::MAX)),
        stream("copy data of a negative length", head(b'd', 3)),
        stream("more than a frame may have", head(b'd', FRAME_MAX as u32 + 100)),
        stream("copy data of an unknown kind", message(b'd', b"x")),
        stream("empty copy data", message(b'd', b"")),
        stream("a short head", message(b'd', &[b'w'; 20])),
        stream("a short keepalive", message(b'd', &keepalive(end, 0, true)[5..15])),
        stream("a long keepalive", message(b'd', &[&b"k"[..], &[0; 200_000]].concat())),
        stream("a frame without a byte", xlog_data(b"")),
        stream("messages in a frame", xlog_data(&smuggled.repeat(1000))),
        stream("streams that were not asked for", {
            (1..300).flat_map(|xid| xlog_data(&frames::streamed(xid))).collect()
        }),
        stream("the end of a stream that never began", xlog_data(&frames::stream_commit(far))),
        stream(
            "a transaction in another",
            [frames::beginning(far), frames::beginning(far + 1)].map(|f| xlog_data(&f)).concat(),
        ),
        stream("a transaction without a beginning", xlog_data(&frames::middle(far))),
        stream("an end without a beginning", xlog_data(&frames::end(far))),
        stream("a keepalive in a transaction", {
            let asks = keepalive(end, i64::MIN, true);
            [xlog_data(&frames::beginning(far)), asks.repeat(8)].concat()
        }),
        closed(
            "the end in a transaction",
            Stage::Stream,
            [xlog_data(&frames::beginning(far)), keepalive(end, i64::MAX, false)].concat(),
        ),
        flood("a long error", Stage::Stream, texts(b'E', FLOOD), part.clone()),
        flood("a long notice", Stage::Stream, texts(b'N', FLOOD), part.clone()),
        flood("a long setting", Stage::Stream, texts(b'S', FLOOD), part.clone()),
        flood("a message of an unknown kind", Stage::Stream, texts(b'y', FLOOD), part.clone()),
    ];
    for tag in *b"TDGH1sWRZ\xFF\0" {
        all.push(stream(
            &format!("a message of type {:?}", char::from(tag)),
            message(tag, &[0; 8]),
        ));
    }
    let frame = frames::transaction(far, b"smuggled");
    for number in 0..6 {
        let mut damaged = frame.clone();
        damaged[rng.usize(..frame.len())] ^= rng.u8(1..);
        all.push(stream(&format!("damage {number}"), xlog_data(&damaged)));
    }
    for number in 0..4 {
        let cut = rng.usize(..frame.len());
        all.push(stream(&format!("a frame of {cut} bytes, {number}"), xlog_data(&frame[..cut])));
        let whole = xlog_data(&frame);
        let cut = rng.usize(1..whole.len());
        let name = format!("a message of {cut} bytes, {number}");
        all.push(closed(name, Stage::Stream, whole[..cut].to_vec()));
    }
    all
}

/// All that are to be refused. Between two that keep the stream from beginning there is one in the stream,
/// behind something that is right: the sidecar comes back soon then.
pub fn refused(rng: &mut Rng) -> Vec<Attack> {
    let (early, late) = (before_the_stream(rng), in_the_stream(rng));
    assert!(late.len() > early.len());
    let mut early = early.into_iter();
    let mut all: Vec<_> =
        late.into_iter().flat_map(|late| [Some(late), early.next()]).flatten().collect();
    // the last one, as what is taken of it hides what others take
    let endless = [head(b'd', FRAME_MAX as u32), b"w".to_vec()].concat();
    all.push(Attack {
        again: (vec![0; MIB / 2], TAKEN),
        then: Then::Closed,
        ..attack("a frame that does not end", Stage::Stream, endless)
    });
    all
}

/// Frames with a checksum that is right, and keepalives, that say what is not so. Some are believed.
pub fn lies(rng: &mut Rng) -> Vec<Attack> {
    let corpus = frames::corpus();
    let frame = frames::transaction(1000, b"changed");
    (0..24)
        .map(|number| {
            let mut bytes = Vec::new();
            for _ in 0..rng.usize(1..8) {
                let base = if rng.bool() { &frame } else { rng.choice(&corpus).expect("some") };
                let lie = if rng.u8(..) < 64 { base.clone() } else { frames::changed(base, rng) };
                bytes.extend(xlog_data(&lie));
                if rng.u8(..) < 64 {
                    let random = rng.u64(..);
                    let end = *rng.choice(&[0, 1, u64::MAX, random]).expect("some");
                    bytes.extend(keepalive(end, rng.i64(..), rng.bool()));
                }
            }
            let name = format!("lies {number}");
            closed(name, Stage::Stream, bytes)
        })
        .collect()
}
