// One TLS connection over a connected TCP socket: bytes in, bytes out, the record layer in between. OpenSSL speaks TLS; this feeds it.
//
// What comes is taken from the kernel in large pieces and decrypted until the place is full; what goes is encrypted into one buffer that leaves with few
// system calls. It knows no JavaScript and no event loop, never blocks, and does not own the descriptor. One thread at a time.
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

 private:
  TlsEngine(const TlsContext* context, int fd);
  static bio_method_st* Method();
  static int BioRead(bio_st* bio, char* out, int bytes);
  static int BioWrite(bio_st* bio, const char* data, int bytes);
  static long BioControl(bio_st* bio, int command, long, void*);

  bool Fill();
  int Flush();
  int Fail(int result);
  bool Seal(std::vector<struct iovec>* parts, size_t* first);
  bool Encrypt(const uint8_t* data, size_t bytes, size_t* taken);

  ssl_st* ssl_ = nullptr;
  const int fd_;
  const uint64_t records_per_key_max_;
  uint64_t records_of_key_ = 0;
  bool is_shaking_ = true;
  // Sticky: the errno, positive.
  int failure_ = 0;
  std::string reason_;
  bool has_ended_ = false;

  // Encrypted, from the peer: [in_begin_, in_end_) of in_.
  std::unique_ptr<uint8_t[]> in_;
  size_t in_begin_ = 0;
  size_t in_end_ = 0;
  int receives_left_ = 0;
  // The last receive has emptied the socket.
  bool is_drained_ = false;
  // The peer has closed the connection.
  bool is_cut_ = false;
  // OpenSSL wanted more than there was.
  bool is_starved_ = false;
  // Messages of TLS itself since the last data.
  int messages_ = 0;

  // Encrypted, for the peer: [out_begin_, out_end_) of out_.
  std::unique_ptr<uint8_t[]> out_;
  size_t out_begin_ = 0;
  size_t out_end_ = 0;
  // Small pieces that become one record.
  std::unique_ptr<uint8_t[]> gathered_;
};

}  // namespace netdrive
