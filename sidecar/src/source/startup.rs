//! Startup packet and authentication.

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::config::ChannelBinding;

use fallible_iterator::FallibleIterator;

use super::framing::{MessageReader, MessageWriter, violation};
use super::server_error::ServerError;
use super::socket::Socket;
use crate::error::{Error, Kind, Result};
use crate::tls::{
    Endpoint, PgConnect, no_channel_binding, password_missing, unknown_authentication,
};

/// A session that is ready for its first query.
pub(super) struct Session {
    pub(super) reader: MessageReader,
    pub(super) writer: MessageWriter,
    /// PID of the walsender.
    pub(super) backend_pid: i32,
    /// `15.4 (Debian …)`.
    pub(super) server_version: String,
}

/// What types without a send function are written with, whatever role and database set: as
/// PostgreSQL's own subscriptions do it, and so that a text means the same wherever it is read (a money
/// inside of a composite value, say). An empty `search_path` keeps names that people could create out
/// of the way of ours.
const PARAMETERS: [(&str, &str); 10] = [
    ("replication", "database"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("lc_monetary", "C"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "3"),
    ("standard_conforming_strings", "on"),
    ("search_path", ""),
];

pub(super) async fn start(
    connect: &PgConnect,
    endpoint: &Endpoint,
    socket: Socket,
) -> Result<Session> {
    let mut session = Session {
        reader: MessageReader::new(socket.read),
        writer: MessageWriter::new(socket.write),
        backend_pid: 0,
        server_version: String::new(),
    };
    let config = connect.config();
    let mut parameters = vec![("user", connect.user()), ("database", connect.database())];
    parameters.extend(PARAMETERS);
    parameters.extend(config.get_application_name().map(|name| ("application_name", name)));
    parameters.extend(config.get_options().map(|options| ("options", options)));
    session.writer.send(|buf| frontend::startup_message(parameters, buf)).await?;
    let mut login = Login {
        connect,
        endpoint,
        binding: socket.binding,
        tls: socket.tls,
        session: &mut session,
    };
    login.authenticate().await?;
    session.wait_ready().await?;
    Ok(session)
}

impl Session {
    /// The next message that is not a notice.
    pub(super) async fn message(&mut self) -> Result<Message> {
        loop {
            match self.reader.next().await?.parse()? {
                Message::NoticeResponse(body) => ServerError::parse(body.fields()).log_notice(),
                Message::NotificationResponse(_) => {}
                message => return Ok(message),
            }
        }
    }

    async fn wait_ready(&mut self) -> Result<()> {
        loop {
            match self.message().await? {
                Message::BackendKeyData(body) => self.backend_pid = body.process_id(),
                Message::ParameterStatus(body) => {
                    if body.name().ok() == Some("server_version") {
                        self.server_version = body.value().unwrap_or_default().to_owned();
                    }
                }
                Message::ErrorResponse(body) => {
                    return Err(ServerError::parse(body.fields())
                        .into_error("the source refused the session"));
                }
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(violation("an unexpected message before the first query")),
            }
        }
    }
}

struct Login<'a> {
    connect: &'a PgConnect,
    endpoint: &'a Endpoint,
    binding: Option<Vec<u8>>,
    tls: bool,
    session: &'a mut Session,
}

impl Login<'_> {
    async fn authenticate(&mut self) -> Result<()> {
        match self.answer().await? {
            Message::AuthenticationOk => return self.binding_not_needed(),
            Message::AuthenticationCleartextPassword => {
                self.binding_not_needed()?;
                let password = self.password()?;
                self.send(|buf| frontend::password_message(&password, buf)).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                self.binding_not_needed()?;
                let user = self.connect.user().as_bytes();
                let hash = md5_hash(user, &self.password()?, body.salt());
                self.send(|buf| frontend::password_message(hash.as_bytes(), buf)).await?;
            }
            Message::AuthenticationSasl(body) => self.scram(&body).await?,
            _ => {
                return Err(unknown_authentication(&self.endpoint.to_string()));
            }
        }
        match self.answer().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(violation("an unexpected message after the password")),
        }
    }

    async fn answer(&mut self) -> Result<Message> {
        match self.session.message().await? {
            Message::ErrorResponse(body) => Err(ServerError::parse(body.fields())
                .into_error(&format!("the source at {} refused the session", self.endpoint))),
            message => Ok(message),
        }
    }

    async fn send(&mut self, put: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        self.session.writer.send(put).await
    }

    fn password(&self) -> Result<Vec<u8>> {
        let password = self.connect.config().get_password();
        password.map(<[u8]>::to_vec).ok_or_else(|| password_missing(&self.endpoint.to_string()))
    }

    fn binding_not_needed(&self) -> Result<()> {
        if self.connect.config().get_channel_binding() != ChannelBinding::Require {
            return Ok(());
        }
        Err(no_channel_binding(&self.endpoint.to_string()))
    }

    async fn scram(&mut self, offered: &AuthenticationSaslBody) -> Result<()> {
        let (mechanism, binding) = self.mechanism(offered)?;
        let refused = |error| {
            Error::new(Kind::Setup, "SCRAM authentication with the source failed").because(error)
        };
        let mut scram = sasl::ScramSha256::new(&self.password()?, binding);
        self.send(|buf| frontend::sasl_initial_response(mechanism, scram.message(), buf)).await?;
        let Message::AuthenticationSaslContinue(body) = self.answer().await? else {
            return Err(violation("an unexpected message during SCRAM"));
        };
        // hashes the password some thousand times, as often as the server says
        scram.update(body.data()).map_err(refused)?;
        self.send(|buf| frontend::sasl_response(scram.message(), buf)).await?;
        let Message::AuthenticationSaslFinal(body) = self.answer().await? else {
            return Err(violation("an unexpected message at the end of SCRAM"));
        };
        scram.finish(body.data()).map_err(refused)
    }

    fn mechanism(
        &mut self,
        offered: &AuthenticationSaslBody,
    ) -> Result<(&'static str, sasl::ChannelBinding)> {
        let names: Vec<&str> = offered
            .mechanisms()
            .collect()
            .map_err(|error| violation("the SASL mechanisms cannot be read").because(error))?;
        let wish = self.connect.config().get_channel_binding();
        let binding = self.binding.take().filter(|_| self.tls && wish != ChannelBinding::Disable);
        let plus = names.contains(&sasl::SCRAM_SHA_256_PLUS);
        let could = binding.is_some();
        if let Some(binding) = binding.filter(|_| plus) {
            let binding = sasl::ChannelBinding::tls_server_end_point(binding);
            return Ok((sasl::SCRAM_SHA_256_PLUS, binding));
        }
        self.binding_not_needed()?;
        if !names.contains(&sasl::SCRAM_SHA_256) {
            return Err(unknown_authentication(&self.endpoint.to_string()));
        }
        // "unrequested" tells the server that we could have; it then detects a downgrade
        let flag = if could {
            sasl::ChannelBinding::unrequested()
        } else {
            sasl::ChannelBinding::unsupported()
        };
        Ok((sasl::SCRAM_SHA_256, flag))
    }
}
