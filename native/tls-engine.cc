// See tls-engine.h.
//
// OpenSSL's own records cost two copies more on each side and leave in pieces of what one BIO holds. It never reads beyond a record, and the record with the
// last word of the handshake is the last one of its keys: so what is left in in_ then, and all that follows, is of the traffic secrets, which it tells as lines of a key log.
#include "tls-engine.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <new>

namespace netdrive {
namespace {

// Small enough to stay in the processor's cache between the kernel and the cipher.
constexpr size_t kInBytes = 128 * 1024 + kTlsHeaderBytes + kTlsSealedBytesMax;
// What is encrypted before it is sent, and beyond it room for what TLS says of its own. A send of 1 MiB costs the kernel a third less a byte than eight of 128
// KiB: what is acknowledged while it lasts is freed where it is used again, on this processor and not on the receiver's.
constexpr size_t kSealedBytes = 64 * (kTlsRecordBytes + kTlsOverhead);
constexpr size_t kOutBytes = kSealedBytes + 64 * 1024;
// Receives before the rest of the loop gets its turn.
constexpr int kReceivesMax = 16;
// Records without data (tickets, new keys, padding) in a row, before a peer is sent away: it makes us work for nothing.
constexpr int kWithoutDataMax = 32;

// RFC 8446, 5.1, 4 and 6.
enum ContentType : uint8_t { kAlert = 21, kHandshake = 22, kApplicationData = 23 };
enum Message : uint8_t { kNewSessionTicket = 4, kKeyUpdate = 24 };
constexpr size_t kMessageHeaderBytes = 4;
enum Alert : uint8_t {
  kCloseNotify = 0,
  kUnexpectedMessage = 10,
  kBadRecordMac = 20,
  kRecordOverflow = 22,
  kIllegalParameter = 47,
  kDecodeError = 50,
  kInternalError = 80,
  kUserCanceled = 90
};

// The buffer of whoever has sent last, for whoever sends next: a connection that has nothing to send has none.
thread_local std::unique_ptr<uint8_t[]> spare_out;

// The bytes behind `prefix` of a line, or none.
size_t HexBehind(const char* line, const char* prefix, uint8_t* out, size_t room) {
  if (strncmp(line, prefix, strlen(prefix)) != 0) return 0;
  // Between them is the client's random.
  const char* at = strchr(line + strlen(prefix), ' ');
  size_t bytes = 0;
  unsigned value = 0;
  for (at = at == nullptr ? "" : at + 1; bytes < room && sscanf(at, "%2x", &value) == 1; at += 2) out[bytes++] = static_cast<uint8_t>(value);
  return bytes;
}

}  // namespace

bio_method_st* TlsEngine::Method() {
  static bio_method_st* const method = [] {
    bio_method_st* made = BIO_meth_new(kBioSourceSink, "netdrive");
    if (made != nullptr) {
      BIO_meth_set_read(made, BioRead);
      BIO_meth_set_write(made, BioWrite);
      BIO_meth_set_ctrl(made, BioControl);
    }
    return made;
  }();
  return method;
}

std::unique_ptr<TlsEngine> TlsEngine::Make(const TlsContext* context, int fd, const std::string& host, const uint8_t* first,
                                           size_t first_bytes) {
  if (first_bytes > kInBytes) return nullptr;
  std::unique_ptr<TlsEngine> engine(new TlsEngine(context, fd));
  bio_st* bio = engine->ssl_ == nullptr || Method() == nullptr ? nullptr : BIO_new(Method());
  if (bio == nullptr) return nullptr;
  BIO_set_data(bio, engine.get());
  SSL_set_ex_data(engine->ssl_, kSslAppData, engine.get());
  BIO_set_init(bio, 1);
  SSL_set_bio(engine->ssl_, bio, bio);
  if (context->is_server) {
    SSL_set_accept_state(engine->ssl_);
  } else {
    SSL_set_connect_state(engine->ssl_);
    if (!host.empty()) SSL_ctrl(engine->ssl_, kSslCtrlSetServerName, 0, const_cast<char*>(host.c_str()));
  }
  if (first_bytes > 0) memcpy(engine->in_.get(), first, first_bytes);
  engine->in_end_ = first_bytes;
  engine->BeginTurn();
  return engine;
}

TlsEngine::TlsEngine(const TlsContext* context, int fd)
    : fd_(fd),
      is_server_(context->is_server),
      records_per_key_max_(context->records_per_key_max),
      in_(new uint8_t[kInBytes]) {
  ERR_clear_error();
  ssl_ = SSL_new(context->context);
}

TlsEngine::~TlsEngine() {
  if (ssl_ != nullptr) SSL_free(ssl_);
}

void TlsEngine::BeginTurn() {
  receives_left_ = kReceivesMax;
  is_drained_ = false;
}

// Takes from the socket what fits behind what is there; false if there is nothing, or not now. What was opened is gone.
bool TlsEngine::Fill() {
  while (receives_left_ > 0 && !is_drained_ && !is_cut_) {
    receives_left_ -= 1;
    memmove(in_.get(), in_.get() + in_begin_, in_end_ - in_begin_);
    in_end_ -= in_begin_;
    in_begin_ = 0;
    const size_t room = kInBytes - in_end_;
    const ssize_t got = recv(fd_, in_.get() + in_end_, room, MSG_DONTWAIT);
    if (got > 0) {
      in_end_ += static_cast<size_t>(got);
      is_drained_ = static_cast<size_t>(got) < room;
      return true;
    }
    if (got == 0) {
      is_cut_ = true;
    } else if (errno == EAGAIN) {
      is_drained_ = true;
    } else if (errno != EINTR) {
      failure_ = errno;
      return false;
    }
  }
  return false;
}

// OpenSSL is never told of an end: it would write nothing any more, although only the peer's side has ended.
int TlsEngine::BioRead(bio_st* bio, char* out, int bytes) {
  auto* engine = static_cast<TlsEngine*>(BIO_get_data(bio));
  BIO_clear_flags(bio, kBioRetryAny);
  if (bytes <= 0) return 0;
  if (engine->in_begin_ == engine->in_end_ && !engine->Fill()) {
    BIO_set_flags(bio, kBioRetryRead);
    return -1;
  }
  const size_t count = std::min(static_cast<size_t>(bytes), engine->in_end_ - engine->in_begin_);
  memcpy(out, engine->in_.get() + engine->in_begin_, count);
  engine->in_begin_ += count;
  return static_cast<int>(count);
}

// Takes all or fails: what is said while hands are shaken is little.
int TlsEngine::BioWrite(bio_st* bio, const char* data, int bytes) {
  auto* engine = static_cast<TlsEngine*>(BIO_get_data(bio));
  BIO_clear_flags(bio, kBioRetryAny);
  if (bytes <= 0) return 0;
  const auto count = static_cast<size_t>(bytes);
  uint8_t* place = engine->OutPlace();
  if (count > kOutBytes - engine->out_end_) return -1;
  memcpy(place, data, count);
  engine->out_end_ += count;
  return bytes;
}

long TlsEngine::BioControl(bio_st*, int command, long, void*) { return command == kBioCtrlFlush ? 1 : 0; }

// Something has failed for good: the negative errno. What there still is to say to the peer leaves if it can.
int TlsEngine::Fail(int result) {
  if (failure_ == 0) failure_ = result;
  const char* reason = ERR_reason_error_string(ERR_peek_error());
  if (reason != nullptr && reason_.empty()) reason_ = reason;
  ERR_clear_error();
  while (HasOutput()) {
    const ssize_t sent = send(fd_, out_.get() + out_begin_, out_end_ - out_begin_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) break;
    out_begin_ += static_cast<size_t>(sent);
  }
  out_begin_ = out_end_ = 0;
  return -failure_;
}

// The peer does what it must not: it is told, if that is possible, and the connection is over.
void TlsEngine::Refuse(int alert, const char* reason) {
  const uint8_t fatal[] = {2, static_cast<uint8_t>(alert)};
  reason_ = reason;
  if (!is_shut_) SealOwn(kAlert, fatal, sizeof fatal);
  Fail(EPROTO);
}

// Sends what is encrypted: 0, also if the socket takes no more, or a negative errno.
int TlsEngine::Flush() {
  while (HasOutput()) {
    const ssize_t sent = send(fd_, out_.get() + out_begin_, out_end_ - out_begin_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
      out_begin_ += static_cast<size_t>(sent);
    } else if (errno == EAGAIN || errno == ENOBUFS) {
      return 0;
    } else if (errno != EINTR) {
      failure_ = errno;
      out_begin_ = out_end_ = 0;
      return -failure_;
    }
  }
  if (spare_out == nullptr) spare_out = std::move(out_);
  out_.reset();
  return 0;
}

int TlsEngine::Handshake() {
  if (failure_ != 0) return -failure_;
  if (!is_shaking_) return 1;
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_);
  if (result != 1 && SSL_get_error(ssl_, result) != kSslErrorWantRead) return Fail(EPROTO);
  if (Flush() != 0 || failure_ != 0) return -failure_;
  if (result != 1 && is_cut_) return Fail(ECONNRESET);
  if (result != 1) return 0;
  if (!BeginRecords()) return Fail(EPROTO);
  is_shaking_ = false;
  return 1;
}

void TlsEngine::TakeSecret(const ssl_st* ssl, const char* line) {
  auto* engine = static_cast<TlsEngine*>(SSL_get_ex_data(ssl, kSslAppData));
  uint8_t secret[kTlsSecretBytesMax];
  for (const bool of_server : {false, true}) {
    const size_t bytes = HexBehind(line, of_server ? "SERVER_TRAFFIC_SECRET_0 " : "CLIENT_TRAFFIC_SECRET_0 ", secret, sizeof secret);
    TlsProtection& protection = of_server == engine->is_server_ ? engine->sealing_ : engine->opening_;
    if (bytes > 0) protection.SetSecret(secret, bytes);
  }
  OPENSSL_cleanse(secret, sizeof secret);
}

bool TlsEngine::BeginRecords() {
  const int suite = SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl_));
  // RFC 6066, 4: 1 is 512 bytes, and each one more is twice as many.
  const int limit = SSL_SESSION_get_max_fragment_length(SSL_get_session(ssl_));
  if (limit > 0) record_bytes_max_ = std::min<size_t>(kTlsRecordBytes, size_t{256} << limit);
  return sealing_.Begin(suite, true) && opening_.Begin(suite, false);
}

ssize_t TlsEngine::Read(uint8_t* place, size_t room, bool* dry) {
  *dry = false;
  size_t filled = 0;
  while (filled < room && failure_ == 0 && !has_ended_) {
    if (data_begin_ < data_end_) {
      const size_t bytes = std::min(room - filled, data_end_ - data_begin_);
      memcpy(place + filled, in_.get() + data_begin_, bytes);
      data_begin_ += bytes;
      filled += bytes;
    } else if (WholeRecord() > 0) {
      filled += Open(place + filled, room - filled);
    } else if (Fill() || failure_ != 0) {
      continue;
    } else if (is_cut_) {
      // Who goes without a word is treated as who says goodbye: whether something is missing is seen by who knows where it should end.
      has_ended_ = true;
    } else {
      *dry = true;
      break;
    }
  }
  if (filled > 0) return static_cast<ssize_t>(filled);
  if (failure_ != 0) return -failure_;
  return has_ended_ ? 0 : -EAGAIN;
}

bool TlsEngine::HasInput() const { return data_begin_ < data_end_ || WholeRecord() > 0 || is_cut_ || has_ended_ || failure_ != 0; }

// The bytes of the next record with its header, or 0 if it has not all come. One that cannot be right is not waited for.
size_t TlsEngine::WholeRecord() const {
  const size_t there = in_end_ - in_begin_;
  if (there < kTlsHeaderBytes) return 0;
  const uint8_t* header = in_.get() + in_begin_;
  const size_t sealed = static_cast<size_t>(header[3]) << 8 | header[4];
  if (header[0] != kApplicationData || sealed > kTlsSealedBytesMax) return kTlsHeaderBytes;
  return there < kTlsHeaderBytes + sealed ? 0 : kTlsHeaderBytes + sealed;
}

// Opens the next record, which is there. Returns how many bytes of data are at the place; data beyond the room stays.
size_t TlsEngine::Open(uint8_t* place, size_t room) {
  uint8_t* record = in_.get() + in_begin_;
  const size_t sealed = static_cast<size_t>(record[3]) << 8 | record[4];
  if (record[0] != kApplicationData) return Refuse(kUnexpectedMessage, "a record of a wrong kind"), 0;
  if (sealed > kTlsSealedBytesMax) return Refuse(kRecordOverflow, "a record that is too long"), 0;
  size_t placed = 0;
  if (!opening_.Open(record, sealed, place, room, &placed)) return Refuse(kBadRecordMac, "bad record mac"), 0;
  in_begin_ += kTlsHeaderBytes + sealed;
  uint8_t* const text = record + kTlsHeaderBytes;
  // The type is behind the data, and behind it there may be zeros.
  size_t bytes = sealed - kTlsTagBytes;
  if (bytes > kTlsRecordBytes + 1) return Refuse(kRecordOverflow, "a record that is too long"), 0;
  const auto at = [&](size_t index) { return index < placed ? place[index] : text[index]; };
  while (bytes > 0 && at(bytes - 1) == 0) bytes -= 1;
  const uint8_t type = bytes > 0 ? at(bytes - 1) : 0;
  if (bytes > 0) bytes -= 1;
  if (bytes > 0 && type == kApplicationData && messages_.empty()) {
    records_without_data_ = 0;
    data_begin_ = static_cast<size_t>(text - in_.get()) + placed;
    data_end_ = std::max(data_begin_, static_cast<size_t>(text - in_.get()) + bytes);
    return std::min(bytes, placed);
  }
  if (++records_without_data_ > kWithoutDataMax) return Refuse(kUnexpectedMessage, "messages without end, but no data"), 0;
  memcpy(text, place, std::min(bytes, placed));
  Take(type, text, bytes);
  return 0;
}

// Takes what TLS says of its own.
void TlsEngine::Take(uint8_t type, const uint8_t* text, size_t bytes) {
  if (type == kAlert) {
    TakeAlert(text, bytes);
  } else if (type == kHandshake && bytes > 0) {
    messages_.insert(messages_.end(), text, text + bytes);
    TakeMessages();
  } else if (type != kApplicationData || !messages_.empty()) {
    // Among it: data, or nothing, in the middle of a message.
    Refuse(kUnexpectedMessage, "a record of a wrong kind");
  }
}

void TlsEngine::TakeAlert(const uint8_t* alert, size_t bytes) {
  if (bytes != 2) return Refuse(kDecodeError, "an alert of a wrong length");
  if (alert[1] == kUserCanceled) return;
  if (alert[1] == kCloseNotify) {
    has_ended_ = true;
    return;
  }
  reason_ = std::string("alert ") + SSL_alert_desc_string_long(alert[1]);
  Fail(EPROTO);
}

// Takes the messages that are whole.
void TlsEngine::TakeMessages() {
  size_t begin = 0;
  while (messages_.size() - begin >= kMessageHeaderBytes) {
    const uint8_t* message = messages_.data() + begin;
    const size_t bytes = static_cast<size_t>(message[1]) << 16 | static_cast<size_t>(message[2]) << 8 | message[3];
    const bool is_ticket = message[0] == kNewSessionTicket && !is_server_;
    if (!is_ticket && message[0] != kKeyUpdate) return Refuse(kUnexpectedMessage, "an unexpected message");
    if (!is_ticket && bytes != 1) return Refuse(kDecodeError, "a message of a wrong length");
    if (messages_.size() - begin < kMessageHeaderBytes + bytes) break;
    begin += kMessageHeaderBytes + bytes;
    // We have no use for tickets.
    if (is_ticket) continue;
    const uint8_t is_asked = message[kMessageHeaderBytes];
    if (is_asked > 1) return Refuse(kIllegalParameter, "a key update of an unknown kind");
    // What is behind it in the same record would be of the key before.
    if (begin < messages_.size()) return Refuse(kUnexpectedMessage, "a key update in the middle of a record");
    if (!opening_.Renew()) return Refuse(kInternalError, "no new key");
    owes_renewal_ = owes_renewal_ || is_asked == 1;
  }
  messages_.erase(messages_.begin(), messages_.begin() + static_cast<ptrdiff_t>(begin));
}

// Where the next encrypted bytes go.
uint8_t* TlsEngine::OutPlace() {
  if (out_ == nullptr) out_ = spare_out != nullptr ? std::move(spare_out) : std::unique_ptr<uint8_t[]>(new uint8_t[kOutBytes]);
  if (out_begin_ == out_end_) out_begin_ = out_end_ = 0;
  return out_.get() + out_end_;
}

// Encrypts what TLS says of its own, behind what is encrypted already.
bool TlsEngine::SealOwn(uint8_t type, const uint8_t* data, size_t bytes) {
  uint8_t* place = OutPlace();
  if (kOutBytes - out_end_ < bytes + kTlsOverhead || !sealing_.Seal(type, data, bytes, place)) return false;
  out_end_ += bytes + kTlsOverhead;
  return true;
}

// Goes on to our next key, and says so before.
bool TlsEngine::RenewSealing() {
  constexpr uint8_t kMessage[] = {kKeyUpdate, 0, 0, 1, 0};
  owes_renewal_ = false;
  return SealOwn(kHandshake, kMessage, sizeof kMessage) && sealing_.Renew();
}

// Encrypts until the buffer is full or nothing is left; small parts that follow each other become one record.
bool TlsEngine::Seal(std::vector<struct iovec>* parts, size_t* first) {
  while (*first < parts->size() && out_end_ + record_bytes_max_ + kTlsOverhead <= kSealedBytes) {
    if ((owes_renewal_ || sealing_.records() >= records_per_key_max_) && !RenewSealing()) return false;
    uint8_t* place = OutPlace();
    struct iovec& part = (*parts)[*first];
    const auto* data = static_cast<const uint8_t*>(part.iov_base);
    size_t bytes = std::min(part.iov_len, record_bytes_max_);
    if (*first + 1 < parts->size() && (*parts)[*first + 1].iov_len + part.iov_len <= record_bytes_max_) {
      data = place + kTlsHeaderBytes;
      for (bytes = 0; *first < parts->size() && bytes + (*parts)[*first].iov_len <= record_bytes_max_; *first += 1) {
        memcpy(place + kTlsHeaderBytes + bytes, (*parts)[*first].iov_base, (*parts)[*first].iov_len);
        bytes += (*parts)[*first].iov_len;
      }
    } else {
      part.iov_base = static_cast<uint8_t*>(part.iov_base) + bytes;
      part.iov_len -= bytes;
      if (part.iov_len == 0) *first += 1;
    }
    if (!sealing_.Seal(kApplicationData, data, bytes, place)) return false;
    out_end_ += bytes + kTlsOverhead;
  }
  return true;
}

int TlsEngine::Send(std::vector<struct iovec>* parts, size_t* first) {
  if (failure_ != 0) return -failure_;
  if (is_shut_ && *first < parts->size()) return Fail(EPIPE);
  for (;;) {
    if (!HasOutput()) {
      out_begin_ = out_end_ = 0;
      ERR_clear_error();
      if (!Seal(parts, first)) return Fail(EPROTO);
    }
    const int failure = Flush();
    if (failure != 0 || HasOutput() || *first == parts->size()) return failure;
  }
}

int TlsEngine::Shutdown() {
  if (failure_ != 0) return -failure_;
  constexpr uint8_t kGoodbye[] = {1, kCloseNotify};
  if (!is_shaking_ && !is_shut_) SealOwn(kAlert, kGoodbye, sizeof kGoodbye);
  is_shut_ = true;
  return Flush();
}

bool TlsEngine::Export(const std::string& label, uint8_t* out, size_t bytes) {
  ERR_clear_error();
  return SSL_export_keying_material(ssl_, out, bytes, label.data(), label.size(), nullptr, 0, 0) == 1;
}

std::vector<uint8_t> TlsEngine::PeerCertificate() const {
  std::vector<uint8_t> der;
  x509_st* certificate = SSL_get1_peer_certificate(ssl_);
  if (certificate == nullptr) return der;
  const int bytes = i2d_X509(certificate, nullptr);
  if (bytes > 0) {
    der.resize(static_cast<size_t>(bytes));
    unsigned char* at = der.data();
    i2d_X509(certificate, &at);
  }
  X509_free(certificate);
  return der;
}

std::string TlsEngine::VerifyFailure() const {
  const long code = SSL_get_verify_result(ssl_);
  return code == 0 ? "" : X509_verify_cert_error_string(code);
}

std::string TlsEngine::Cipher() const {
  const ssl_cipher_st* cipher = SSL_get_current_cipher(ssl_);
  return cipher == nullptr ? "" : SSL_CIPHER_get_name(cipher);
}

}  // namespace netdrive
