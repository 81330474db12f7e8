// See tls-engine.h.
//
// OpenSSL reads and writes through a BIO of our own, which copies once more than its own socket BIO would: that one makes two system calls a record to read and
// one to write, and with a large read-ahead it moves all that is buffered at each record.
#include "tls-engine.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

namespace netdrive {
namespace {

// Plaintext of one record at most, and what a record adds at most (header, type, tag), rounded up.
constexpr size_t kRecordBytes = 16 * 1024;
constexpr size_t kRecordOverhead = 64;
// Small enough to stay in the processor's cache between the kernel and the cipher.
constexpr size_t kInBytes = 128 * 1024;
// What is encrypted before it is sent, and beyond it room for what TLS says of its own.
constexpr size_t kSealedBytes = 8 * (kRecordBytes + kRecordOverhead);
constexpr size_t kOutBytes = kSealedBytes + 64 * 1024;
// Receives before the rest of the loop gets its turn.
constexpr int kReceivesMax = 16;
// Messages of TLS itself (tickets, new keys, our answers to those) without data between them, before a peer is sent away: it makes us work for nothing.
constexpr int kMessagesMax = 32;

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
      records_per_key_max_(context->records_per_key_max),
      in_(new uint8_t[kInBytes]),
      out_(new uint8_t[kOutBytes]),
      gathered_(new uint8_t[kRecordBytes]) {
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

// Takes from the socket what fits; false if there is nothing, or not now.
bool TlsEngine::Fill() {
  while (receives_left_ > 0 && !is_drained_ && !is_cut_) {
    receives_left_ -= 1;
    const ssize_t got = recv(fd_, in_.get(), kInBytes, MSG_DONTWAIT);
    if (got > 0) {
      in_begin_ = 0;
      in_end_ = static_cast<size_t>(got);
      is_drained_ = in_end_ < kInBytes;
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
    engine->is_starved_ = true;
    BIO_set_flags(bio, kBioRetryRead);
    return -1;
  }
  const size_t count = std::min(static_cast<size_t>(bytes), engine->in_end_ - engine->in_begin_);
  memcpy(out, engine->in_.get() + engine->in_begin_, count);
  engine->in_begin_ += count;
  return static_cast<int>(count);
}

// Takes all or fails: there is always room for a record where data is encrypted, and what TLS says of its own is little.
int TlsEngine::BioWrite(bio_st* bio, const char* data, int bytes) {
  auto* engine = static_cast<TlsEngine*>(BIO_get_data(bio));
  BIO_clear_flags(bio, kBioRetryAny);
  if (bytes <= 0) return 0;
  const auto count = static_cast<size_t>(bytes);
  if (engine->out_begin_ == engine->out_end_) engine->out_begin_ = engine->out_end_ = 0;
  if (count > kOutBytes - engine->out_end_) return -1;
  memcpy(engine->out_.get() + engine->out_end_, data, count);
  engine->out_end_ += count;
  return bytes;
}

long TlsEngine::BioControl(bio_st*, int command, long, void*) { return command == kBioCtrlFlush ? 1 : 0; }

// A call of OpenSSL has failed for good: the negative errno. What it still has to say to the peer leaves if it can.
int TlsEngine::Fail(int result) {
  if (failure_ == 0) failure_ = result;
  const char* reason = ERR_reason_error_string(ERR_peek_error());
  if (reason != nullptr) reason_ = reason;
  ERR_clear_error();
  while (HasOutput()) {
    const ssize_t sent = send(fd_, out_.get() + out_begin_, out_end_ - out_begin_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) break;
    out_begin_ += static_cast<size_t>(sent);
  }
  out_begin_ = out_end_ = 0;
  return -failure_;
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
  return 0;
}

int TlsEngine::Handshake() {
  if (failure_ != 0) return -failure_;
  if (!is_shaking_) return 1;
  ERR_clear_error();
  is_starved_ = false;
  const int result = SSL_do_handshake(ssl_);
  if (result != 1 && SSL_get_error(ssl_, result) != kSslErrorWantRead) return Fail(EPROTO);
  if (Flush() != 0 || failure_ != 0) return -failure_;
  if (result != 1 && is_cut_) return Fail(ECONNRESET);
  if (result != 1) return 0;
  is_shaking_ = false;
  return 1;
}

ssize_t TlsEngine::Read(uint8_t* place, size_t room, bool* dry) {
  *dry = false;
  size_t filled = 0;
  while (filled < room && failure_ == 0 && !has_ended_) {
    ERR_clear_error();
    is_starved_ = false;
    size_t got = 0;
    const int result = SSL_read_ex(ssl_, place + filled, room - filled, &got);
    if (result == 1) {
      filled += got;
      messages_ = 0;
      continue;
    }
    const int error = SSL_get_error(ssl_, result);
    if (error == kSslErrorZeroReturn) {
      has_ended_ = true;
    } else if (error != kSslErrorWantRead || (!is_starved_ && ++messages_ > kMessagesMax)) {
      Fail(EPROTO);
      if (reason_.empty()) reason_ = "messages without end, but no data";
    } else if (is_starved_ && is_cut_) {
      // Who goes without a word is treated as who says goodbye: whether something is missing is seen by who knows where it should end.
      has_ended_ = true;
    } else if (is_starved_ && failure_ == 0) {
      *dry = true;
      break;
    }
  }
  if (filled > 0) return static_cast<ssize_t>(filled);
  if (failure_ != 0) return -failure_;
  return has_ended_ ? 0 : -EAGAIN;
}

bool TlsEngine::HasInput() const {
  return in_begin_ < in_end_ || SSL_pending(ssl_) > 0 || is_cut_ || has_ended_ || failure_ != 0;
}

// Encrypts some of `data`, as much as there is room for.
bool TlsEngine::Encrypt(const uint8_t* data, size_t bytes, size_t* taken) {
  if (records_of_key_ >= records_per_key_max_) {
    records_of_key_ = 0;
    if (SSL_key_update(ssl_, kSslKeyUpdateNotRequested) != 1) return false;
  }
  const size_t records = std::max<size_t>(1, (kSealedBytes - out_end_) / (kRecordBytes + kRecordOverhead));
  records_of_key_ += records;
  return SSL_write_ex(ssl_, data, std::min(bytes, records * kRecordBytes), taken) == 1;
}

// Encrypts until the buffer is full or nothing is left; small parts that follow each other become one record.
bool TlsEngine::Seal(std::vector<struct iovec>* parts, size_t* first) {
  while (*first < parts->size() && out_end_ + kRecordBytes + kRecordOverhead <= kSealedBytes) {
    struct iovec& part = (*parts)[*first];
    size_t taken = 0;
    if (part.iov_len < kRecordBytes && *first + 1 < parts->size() && (*parts)[*first + 1].iov_len + part.iov_len <= kRecordBytes) {
      size_t gathered = 0;
      while (*first < parts->size() && gathered + (*parts)[*first].iov_len <= kRecordBytes) {
        memcpy(gathered_.get() + gathered, (*parts)[*first].iov_base, (*parts)[*first].iov_len);
        gathered += (*parts)[(*first)++].iov_len;
      }
      if (!Encrypt(gathered_.get(), gathered, &taken)) return false;
      continue;
    }
    if (!Encrypt(static_cast<const uint8_t*>(part.iov_base), part.iov_len, &taken)) return false;
    part.iov_base = static_cast<uint8_t*>(part.iov_base) + taken;
    part.iov_len -= taken;
    if (part.iov_len == 0) *first += 1;
  }
  return true;
}

int TlsEngine::Send(std::vector<struct iovec>* parts, size_t* first) {
  if (failure_ != 0) return -failure_;
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
  ERR_clear_error();
  SSL_shutdown(ssl_);
  ERR_clear_error();
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

}  // namespace netdrive
