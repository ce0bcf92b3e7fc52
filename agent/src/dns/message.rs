//! DNS messages: what is looked at before a question is understood, and how answers are put.
//!
//! Guarantees: whatever bytes come in, they are ignored, answered with an error, or handed on as
//! one question; an answer fits the client's transport, says so when it was cut (RFC 2181
//! section 9), and has an OPT record exactly when the question had one (RFC 6891).

use hickory_proto::{
    op::{Edns, Message, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, RData, Record, RecordType,
        rdata::{HINFO, opt::EdnsOption},
    },
};
use rand::seq::SliceRandom;

/// The largest datagram that is sent to a client which says that it takes more than 512 bytes: it
/// passes every link without fragments.
pub(super) const MAX_DATAGRAM: u16 = 1232;

/// What a client without EDNS takes in a datagram (RFC 1035 section 4.2.1).
const PLAIN_DATAGRAM: u16 = 512;

/// The length of the fixed part of a message.
const HEADER: usize = 12;

/// The only version of EDNS.
const EDNS_VERSION: u8 = 0;

/// The EDNS option of RFC 8914.
const EXTENDED_ERROR: u16 = 15;

/// How long the answer to a question for ANY may be kept.
const ANY_TTL: u32 = 3600;

/// How a question came in, and so how large its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Datagram,
    Stream,
}

/// Why an answer is an error (RFC 8914).
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    Other = 0,
    NotReady = 14,
    NotAuthoritative = 20,
    NoReachableAuthority = 22,
}

/// What bytes from a client are.
#[derive(Debug)]
pub(super) enum Received {
    /// One question for us.
    Question(Box<Reply>, Query),
    /// Something that is answered with an error.
    Wrong(Box<Reply>),
    /// Something that nobody waits for an answer to.
    Ignored,
}

/// An answer that is being written.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) message: Message,
    limit: u16,
}

impl Received {
    /// Looks at the bytes. What can be told from the fixed part is, before anything is decoded.
    pub(super) fn read(bytes: &[u8], transport: Transport) -> Self {
        let Some(&[_, _, flags, _, questions @ ..]) = bytes.first_chunk::<HEADER>() else {
            return Self::Ignored;
        };
        let is_answer = flags & 0x80 != 0;
        if is_answer {
            return Self::Ignored;
        }
        let op_code = (flags >> 3) & 0xf;
        if op_code != 0 {
            return Self::wrong(bytes, ResponseCode::NotImp);
        }
        if questions[..2] != [0, 1] {
            return Self::wrong(bytes, ResponseCode::FormErr);
        }
        let Ok(question) = Message::from_vec(bytes) else {
            return Self::wrong(bytes, ResponseCode::FormErr);
        };
        let mut reply = Reply::to(&question, transport);
        let [query] = &question.queries[..] else {
            return Self::wrong(bytes, ResponseCode::FormErr);
        };
        let version = question.edns.as_ref().map_or(EDNS_VERSION, Edns::version);
        let code = match (query.query_class(), query.query_type()) {
            _ if version != EDNS_VERSION => ResponseCode::BADVERS,
            (_, RecordType::OPT) => ResponseCode::FormErr,
            (DNSClass::IN, RecordType::AXFR | RecordType::IXFR) => ResponseCode::Refused,
            (DNSClass::IN, _) => return Self::Question(Box::new(reply), query.clone()),
            _ => ResponseCode::Refused,
        };
        reply.message.metadata.response_code = code;
        Self::Wrong(Box::new(reply))
    }

    /// An error about a message of which only the fixed part is understood.
    fn wrong(bytes: &[u8], code: ResponseCode) -> Self {
        let &[id_high, id_low, flags, ..] = bytes else { return Self::Ignored };
        let id = u16::from_be_bytes([id_high, id_low]);
        let mut message = Message::response(id, OpCode::from_u8((flags >> 3) & 0xf));
        message.metadata.recursion_desired = flags & 1 != 0;
        message.metadata.response_code = code;
        Self::Wrong(Box::new(Reply { message, limit: PLAIN_DATAGRAM }))
    }
}

impl Reply {
    fn to(question: &Message, transport: Transport) -> Self {
        let asked = &question.metadata;
        let mut message = Message::response(asked.id, asked.op_code);
        message.metadata = Metadata::response_from_request(asked);
        // The question goes back as it was, its letters' case included.
        message.add_queries(question.queries.iter().cloned());
        if question.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_DATAGRAM);
            message.set_edns(edns);
        }
        let limit = match (transport, &question.edns) {
            (Transport::Stream, _) => u16::MAX,
            (Transport::Datagram, None) => PLAIN_DATAGRAM,
            (Transport::Datagram, Some(edns)) => {
                edns.max_payload().clamp(PLAIN_DATAGRAM, MAX_DATAGRAM)
            }
        };
        Self { message, limit }
    }

    /// Makes it an error, with the reason for clients that can read it.
    pub(super) fn fail(&mut self, code: ResponseCode, why: Why, text: &str) {
        self.message.metadata.response_code = code;
        if let Some(edns) = &mut self.message.edns {
            let mut data = (why as u16).to_be_bytes().to_vec();
            data.extend(text.as_bytes());
            edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, data));
        }
    }

    /// Answers a question for ANY with the least that RFC 8482 allows: the name exists.
    pub(super) fn answer_any(&mut self, query: &Query) {
        let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        self.message.add_answer(Record::from_rdata(query.name().clone(), ANY_TTL, data));
    }

    /// Adds records; most clients take the first address, so each is first as often as the others.
    pub(super) fn add_answers(&mut self, mut records: Vec<Record>) {
        let first = records.iter().position(is_one_of_many).unwrap_or(records.len());
        if records[first..].iter().all(is_one_of_many) {
            records[first..].shuffle(&mut rand::rng());
        }
        self.message.add_answers(records);
    }

    /// The bytes of it, and whether they are cut to fit.
    pub(super) fn into_bytes(mut self) -> Option<(Vec<u8>, bool)> {
        let limit = usize::from(self.limit);
        let mut bytes = self.message.to_vec().ok()?;
        if bytes.len() > limit && !self.message.additionals.is_empty() {
            // They are a courtesy, whose absence needs no word (RFC 2181 section 9).
            self.message.additionals.clear();
            bytes = self.message.to_vec().ok()?;
        }
        let cut = bytes.len() > limit;
        self.message.metadata.truncation = cut;
        while bytes.len() > limit {
            let held = self.message.answers.len();
            if held == 0 {
                self.message.authorities.clear();
            }
            // Some clients make do with a part, so as much stays as fits.
            self.message.answers.truncate((held * limit / bytes.len()).min(held.saturating_sub(1)));
            let shorter = self.message.to_vec().ok()?;
            if shorter.len() >= bytes.len() {
                return None;
            }
            bytes = shorter;
        }
        Some((bytes, cut))
    }
}

fn is_one_of_many(record: &Record) -> bool {
    matches!(record.record_type(), RecordType::A | RecordType::AAAA | RecordType::SRV)
}
