// One TLS connection over a connected TCP socket: bytes in, bytes out. OpenSSL shakes hands; the records behind that, and what TLS says in them of its own, are
// handled here (RFC 8446, 4.6, 5 and 6).
//
// What comes is taken from the kernel in large pieces and decrypted to its place until that is full; what goes is encrypted from where it is into one buffer
// that leaves with few system calls. Nothing is copied besides. It knows no JavaScript and no event loop, never blocks, and does not own the descriptor. One
// thread at a time.
//
// After a failure every call says so again, and nothing is read or encrypted any more.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "openssl-subset.h"
#include "tls-context.h"
#include "tls-protection.h"

namespace netdrive {

class TlsEngine {
 public:
  // Null where memory is short. `host`: what the client says it wants, or empty; `first`: bytes of the peer that were read already.
  static std::unique_ptr<TlsEngine> Make(const TlsContext* context, int fd, const std::string& host, const uint8_t* first,
                                         size_t first_bytes);
  ~TlsEngine();
  TlsEngine(const TlsEngine&) = delete;
  TlsEngine& operator=(const TlsEngine&) = delete;

  // A turn of the event loop begins: the socket may be read again, so often.
  void BeginTurn();

  // Goes on shaking hands: 1 done, 0 not yet, or a negative errno.
  int Handshake();
  // Whether it is still to be gone on with.
  bool is_shaking() const { return is_shaking_ && failure_ == 0; }

  // Fills the place as far as it can: bytes, 0 where the peer has ended its side, or a negative errno (EAGAIN: nothing yet). `dry`: no more before the
  // next turn.
  ssize_t Read(uint8_t* place, size_t room, bool* dry);
  // Whether Read has something to say without the socket's becoming readable.
  bool HasInput() const;

  // Encrypts and sends [*first, end) of `parts`, as much as the socket takes, and moves on *first and the parts: 0 or a negative errno.
  int Send(std::vector<struct iovec>* parts, size_t* first);
  // Whether something encrypted waits for the socket to have room.
  bool HasOutput() const { return out_begin_ < out_end_; }

  // Says that nothing more will be sent.
  int Shutdown();

  // What is known of the failure beyond its errno; may be empty.
  const std::string& reason() const { return reason_; }

  bool Export(const std::string& label, uint8_t* out, size_t bytes);
  // The peer's certificate, DER; empty if there is none.
  std::vector<uint8_t> PeerCertificate() const;
  // What is wrong with it; empty if nothing is.
  std::string VerifyFailure() const;
  // What encrypts the records, as RFC 8446 calls it.
  std::string Cipher() const;

  // Of every context: what OpenSSL calls with each secret, as a line of a key log.
  static void TakeSecret(const ssl_st* ssl, const char* line);

 private:
  TlsEngine(const TlsContext* context, int fd);
  static bio_method_st* Method();
  static int BioRead(bio_st* bio, char* out, int bytes);
  static int BioWrite(bio_st* bio, const char* data, int bytes);
  static long BioControl(bio_st* bio, int command, long, void*);

  bool Fill();
  int Flush();
  int Fail(int result);
  void Refuse(int alert, const char* reason);
  bool BeginRecords();

  size_t WholeRecord() const;
  size_t Open(uint8_t* place, size_t room);
  void Take(uint8_t type, const uint8_t* text, size_t bytes);
  void TakeAlert(const uint8_t* alert, size_t bytes);
  void TakeMessages();

  bool Seal(std::vector<struct iovec>* parts, size_t* first);
  bool SealOwn(uint8_t type, const uint8_t* data, size_t bytes);
  bool RenewSealing();
  uint8_t* OutPlace();

  ssl_st* ssl_ = nullptr;
  const int fd_;
  const bool is_server_;
  const uint64_t records_per_key_max_;
  bool is_shaking_ = true;
  // Sticky: the errno, positive.
  int failure_ = 0;
  std::string reason_;
  bool has_ended_ = false;
  bool is_shut_ = false;

  TlsProtection sealing_;
  TlsProtection opening_;
  // Data of one record at most: less than TLS allows where the peer has asked for that.
  size_t record_bytes_max_ = kTlsRecordBytes;
  // The peer wants a new key of ours too.
  bool owes_renewal_ = false;

  // From the peer: [in_begin_, in_end_) of in_, and before it [data_begin_, data_end_): opened, and there was no room for it.
  std::unique_ptr<uint8_t[]> in_;
  size_t data_begin_ = 0;
  size_t data_end_ = 0;
  size_t in_begin_ = 0;
  size_t in_end_ = 0;
  int receives_left_ = 0;
  // The last receive has emptied the socket.
  bool is_drained_ = false;
  // The peer has closed the connection.
  bool is_cut_ = false;
  // Messages of TLS itself, as far as they have come. Bounded by records_without_data_.
  std::vector<uint8_t> messages_;
  int records_without_data_ = 0;

  // Encrypted, for the peer: [out_begin_, out_end_) of out_, which is there only while there is something in it.
  std::unique_ptr<uint8_t[]> out_;
  size_t out_begin_ = 0;
  size_t out_end_ = 0;
};

}  // namespace netdrive
