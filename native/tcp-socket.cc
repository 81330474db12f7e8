// A connected TCP socket in Node's event loop: bytes land where JavaScript says, and several Buffers leave with one system call.
//
// Node's own streams cost five times as much processor a small message: objects for each write, a function for each read, states, ticks. Here
// the loop's epoll tells of bytes, recv(2) puts them at the place JavaScript named, and one call says how many. What a send could
// not take leaves when the socket has room again. JavaScript keeps alive what it named: the place until it names another or closes, the
// Buffers of a send until it is done. Everything happens on the JavaScript thread.
//
// With a TLS engine in between the bytes are decrypted at their place and encrypted from the Buffers: nothing else differs for JavaScript, but that hands are
// shaken first. Why not Node's TLS: it gives JavaScript every record of 16 KiB by itself and copies most bytes twice more.
#include "tcp-socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "arguments.h"
#include "busy-wait.h"
#include "tls-engine.h"
#include "uv-subset.h"

namespace netdrive {
namespace {

// Reads before the rest of the loop gets its turn.
constexpr int kReadsMax = 16;
// Buffers of one send. CHUNKS_MAX of src/sys/tcp-socket.ts.
constexpr size_t kChunksMax = 64;

struct Socket {
  napi_env env = nullptr;
  int fd = -1;
  // The uv_poll_t; null before the start and after the end.
  void* poll = nullptr;
  int watched = 0;
  bool reading = false;
  uint8_t* place = nullptr;
  size_t place_bytes = 0;
  // What a send has left: [first, end) of `parts`.
  std::vector<struct iovec> parts;
  size_t first = 0;
  // A send that JavaScript is to be told the end of.
  bool sending = false;
  // Null without TLS.
  std::unique_ptr<TlsEngine> tls;
  // The first word of a handshake is due.
  bool beginning = false;
  // Our side ends when everything has left.
  bool ending = false;
  napi_ref receiver = nullptr;
  napi_ref on_landed = nullptr;
  napi_ref on_sent = nullptr;
  napi_ref on_end = nullptr;
  napi_ref on_secured = nullptr;
  napi_async_context context = nullptr;
};

void OnEvents(void* handle, int status, int events);

bool HasParts(const Socket* socket) { return socket->first < socket->parts.size(); }

bool HasOutput(const Socket* socket) { return HasParts(socket) || (socket->tls != nullptr && socket->tls->HasOutput()); }

bool IsShaking(const Socket* socket) { return socket->tls != nullptr && socket->tls->is_shaking(); }

void UpdateWatch(Socket* socket) {
  if (socket->poll == nullptr) return;
  const bool reads = socket->reading || IsShaking(socket);
  const bool writes = socket->beginning || HasOutput(socket);
  const int wanted = (reads ? kUvReadable : 0) | (writes ? kUvWritable : 0);
  if (wanted == socket->watched) return;
  socket->watched = wanted;
  if (wanted == 0) {
    uv_poll_stop(socket->poll);
  } else {
    uv_poll_start(socket->poll, wanted, OnEvents);
  }
}

// Calls back into JavaScript. Nothing may throw there: an exception ends the process.
void Call(Socket* socket, napi_ref callback, int64_t argument) {
  napi_env env = socket->env;
  napi_value receiver, function, number;
  if (socket->receiver == nullptr || napi_get_reference_value(env, socket->receiver, &receiver) != napi_ok ||
      napi_get_reference_value(env, callback, &function) != napi_ok || napi_create_int64(env, argument, &number) != napi_ok) {
    return;
  }
  napi_make_callback(env, socket->context, receiver, function, 1, &number, nullptr);
}

void CloseSocket(Socket* socket) {
  socket->reading = false;
  socket->parts.clear();
  socket->first = 0;
  socket->sending = false;
  socket->beginning = false;
  socket->place = nullptr;
  socket->tls.reset();
  if (socket->poll != nullptr) {
    void* poll = socket->poll;
    socket->poll = nullptr;
    uv_poll_stop(poll);
    uv_close(poll, [](void* handle) { free(handle); });
  }
  if (socket->fd >= 0) close(socket->fd);
  socket->fd = -1;
}

// Lets go of JavaScript, which holds the socket in turn.
void DropCallbacks(Socket* socket) {
  for (napi_ref* reference : {&socket->receiver, &socket->on_landed, &socket->on_sent, &socket->on_end, &socket->on_secured}) {
    if (*reference != nullptr) napi_delete_reference(socket->env, *reference);
    *reference = nullptr;
  }
}

// Nothing comes any more: `failure`, or 0 where the peer has ended its side.
void End(Socket* socket, int failure) {
  socket->reading = false;
  Call(socket, socket->on_end, failure);
}

// Sends what is left, without TLS. Returns 0, or the negative errno the connection ended with.
int SendParts(Socket* socket) {
  while (HasParts(socket)) {
    struct msghdr message = {};
    message.msg_iov = socket->parts.data() + socket->first;
    message.msg_iovlen = socket->parts.size() - socket->first;
    const ssize_t sent = sendmsg(socket->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return errno == EAGAIN || errno == ENOBUFS ? 0 : -errno;
    size_t left = static_cast<size_t>(sent);
    while (HasParts(socket) && left >= socket->parts[socket->first].iov_len) left -= socket->parts[socket->first++].iov_len;
    if (!HasParts(socket)) break;
    struct iovec& part = socket->parts[socket->first];
    part.iov_base = static_cast<uint8_t*>(part.iov_base) + left;
    part.iov_len -= left;
  }
  return 0;
}

// Sends what is left. Returns 0, or the negative errno the connection ended with.
int Send(Socket* socket) {
  const int failure = socket->tls != nullptr ? socket->tls->Send(&socket->parts, &socket->first) : SendParts(socket);
  if (failure != 0) {
    socket->parts.clear();
    socket->first = 0;
    socket->sending = false;
  } else if (socket->ending && !HasOutput(socket)) {
    shutdown(socket->fd, SHUT_WR);
  }
  return failure;
}

void OnWritable(Socket* socket) {
  if (!HasOutput(socket)) return;
  const int failure = Send(socket);
  if (failure != 0) {
    End(socket, -failure);
  } else if (socket->sending && !HasOutput(socket)) {
    socket->sending = false;
    Call(socket, socket->on_sent, 0);
  }
}

// Fills the place: bytes, 0 where the peer has ended its side, or a negative errno. `dry`: nothing more comes now.
ssize_t Receive(Socket* socket, bool* dry) {
  if (socket->tls != nullptr) return socket->tls->Read(socket->place, socket->place_bytes, dry);
  const ssize_t got = recv(socket->fd, socket->place, socket->place_bytes, MSG_DONTWAIT);
  // A short read has emptied the socket, as like as not; if not, epoll says so.
  *dry = got >= 0 && static_cast<size_t>(got) < socket->place_bytes;
  return got < 0 ? -errno : got;
}

// Reads until there is nothing more, or JavaScript wants no more. With TLS the engine counts the reads: nothing may stay in it.
void OnReadable(Socket* socket) {
  if (socket->tls != nullptr) socket->tls->BeginTurn();
  for (int reads = 0; (reads < kReadsMax || socket->tls != nullptr) && socket->reading && socket->fd >= 0; reads++) {
    bool dry = false;
    const ssize_t got = Receive(socket, &dry);
    if (got > 0) {
      CountTraffic(static_cast<size_t>(got));
      Call(socket, socket->on_landed, got);
    } else if (got == 0 || (got != -EAGAIN && got != -EINTR)) {
      End(socket, static_cast<int>(-got));
    } else if (got == -EAGAIN) {
      break;
    }
    if (dry) break;
  }
}

// Goes on shaking hands, and tells when it is done.
void OnShaking(Socket* socket) {
  socket->beginning = false;
  socket->tls->BeginTurn();
  const int result = socket->tls->Handshake();
  if (result < 0) {
    End(socket, -result);
  } else if (result > 0) {
    Call(socket, socket->on_secured, 0);
  }
}

void OnEvents(void* handle, int status, int events) {
  auto* socket = static_cast<Socket*>(uv_handle_get_data(handle));
  napi_handle_scope scope;
  napi_value receiver;
  napi_env env = socket->env;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  // Holds the socket while JavaScript closes it and forgets it.
  if (napi_get_reference_value(env, socket->receiver, &receiver) == napi_ok) {
    // libuv has stopped watching. What is wrong is said by reading or writing.
    if (status < 0) socket->watched = 0;
    if (IsShaking(socket)) {
      OnShaking(socket);
    } else {
      if ((events & kUvWritable) != 0 || status < 0) OnWritable(socket);
      if ((events & kUvReadable) != 0 || status < 0) OnReadable(socket);
    }
    UpdateWatch(socket);
  }
  napi_close_handle_scope(env, scope);
}

void OnTeardown(void* data) { CloseSocket(static_cast<Socket*>(data)); }

// The JavaScript object of the socket is gone.
void Finalize(napi_env env, void* data, void*) {
  auto* socket = static_cast<Socket*>(data);
  napi_remove_env_cleanup_hook(env, OnTeardown, socket);
  CloseSocket(socket);
  DropCallbacks(socket);
  if (socket->context != nullptr) napi_async_destroy(env, socket->context);
  delete socket;
}

// Null with a pending exception.
Socket* GetSocket(napi_env env, napi_value value) {
  void* data = nullptr;
  if (value == nullptr || napi_get_value_external(env, value, &data) != napi_ok) {
    napi_throw_type_error(env, nullptr, "netdrive addon: expected a socket");
  }
  return static_cast<Socket*>(data);
}

// tcpAdopt(fd): a socket with a descriptor of its own for the connection, or a negative errno.
napi_value Adopt(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  const int of = arguments.Int(0);
  if (!arguments.ok()) return arguments.Wrong();
  const int fd = fcntl(of, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return Number(env, -errno);
  auto* socket = new Socket;
  socket->env = env;
  socket->fd = fd;
  napi_value external;
  NETDRIVE_CHECK(env, napi_create_external(env, socket, Finalize, nullptr, &external));
  NETDRIVE_CHECK(env, napi_add_env_cleanup_hook(env, OnTeardown, socket));
  return external;
}

// tcpSecure(socket, context, host, first): 0 or -errno. Before tcpStart: TLS is spoken, beginning with a handshake. `first`: what the peer has said already.
napi_value Secure(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  const TlsContext* context = socket == nullptr ? nullptr : GetTlsContext(env, arguments.value(1));
  if (context == nullptr) return nullptr;
  const std::string host = arguments.Path(2);
  const Bytes first = arguments.Buffer(3);
  if (!arguments.ok() || socket->context != nullptr || socket->tls != nullptr) return arguments.Wrong();
  socket->tls = TlsEngine::Make(context, socket->fd, host, first.data, first.size);
  socket->beginning = socket->tls != nullptr;
  return Number(env, socket->tls == nullptr ? -ENOMEM : 0);
}

// tcpStart(socket, receiver, onLanded(bytes), onSent(), onEnd(errno), onSecured()): 0 or -errno. Nothing is read before tcpRead but a handshake. `receiver`
// holds the socket, and is held until tcpClose.
napi_value Start(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  if (arguments.count() != 6 || socket->context != nullptr || socket->fd < 0) return arguments.Wrong();
  uv_loop_s* loop;
  napi_value name;
  NETDRIVE_CHECK(env, napi_get_uv_event_loop(env, &loop));
  NETDRIVE_CHECK(env, napi_create_string_utf8(env, "netdrive-tcp", NAPI_AUTO_LENGTH, &name));
  NETDRIVE_CHECK(env, napi_async_init(env, arguments.value(1), name, &socket->context));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(1), 1, &socket->receiver));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(2), 1, &socket->on_landed));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(3), 1, &socket->on_sent));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(4), 1, &socket->on_end));
  NETDRIVE_CHECK(env, napi_create_reference(env, arguments.value(5), 1, &socket->on_secured));
  void* poll = malloc(uv_handle_size(kUvPoll));
  const int failure = poll == nullptr ? -ENOMEM : uv_poll_init(loop, poll, socket->fd);
  if (failure != 0) {
    free(poll);
  } else {
    uv_handle_set_data(poll, socket);
    socket->poll = poll;
    UpdateWatch(socket);
  }
  return Number(env, failure);
}

// tcpPlace(socket, buffer): where the next bytes go.
napi_value Place(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  const Bytes place = arguments.Buffer(1);
  if (!arguments.ok() || place.size == 0) return arguments.Wrong();
  socket->place = place.data;
  socket->place_bytes = place.size;
  return nullptr;
}

// tcpRead(socket, on): reads, or does not. 1 if tcpPump is to be called soon: there is something that the socket will not tell of.
napi_value Read(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  const bool on = arguments.Int(1) != 0;
  if (!arguments.ok() || (on && socket->place == nullptr)) return arguments.Wrong();
  socket->reading = on && socket->fd >= 0;
  UpdateWatch(socket);
  return Number(env, socket->reading && socket->tls != nullptr && socket->tls->HasInput() ? 1 : 0);
}

// tcpPump(socket): reads what is there, if it is to be read.
napi_value Pump(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  OnReadable(socket);
  UpdateWatch(socket);
  return nullptr;
}

// tcpSend(socket, ...buffers): 1 if they have left, 0 if onSent will say so, or a negative errno. One send at a time.
napi_value SendBuffers(napi_env env, napi_callback_info info) {
  size_t count = kChunksMax + 1;
  napi_value values[kChunksMax + 1];
  NETDRIVE_CHECK(env, napi_get_cb_info(env, info, &count, values, nullptr, nullptr));
  Socket* socket = count > 0 ? GetSocket(env, values[0]) : nullptr;
  if (socket == nullptr) return nullptr;
  if (socket->poll == nullptr || IsShaking(socket)) return Number(env, -EPIPE);
  if (count < 2 || count > kChunksMax + 1 || HasParts(socket) || socket->sending) {
    napi_throw_range_error(env, nullptr, "netdrive addon: a send under way, or too much at once");
    return nullptr;
  }
  socket->parts.clear();
  socket->first = 0;
  for (size_t i = 1; i < count; i++) {
    void* data;
    size_t bytes;
    NETDRIVE_CHECK(env, napi_get_buffer_info(env, values[i], &data, &bytes));
    if (bytes > 0) socket->parts.push_back({data, bytes});
    CountTraffic(bytes);
  }
  const int failure = Send(socket);
  if (failure != 0) return Number(env, failure);
  socket->sending = HasOutput(socket);
  UpdateWatch(socket);
  return Number(env, socket->sending ? 0 : 1);
}

// tcpShutdown(socket): ends our side.
napi_value Shutdown(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  if (socket->fd < 0) return nullptr;
  socket->ending = true;
  if (socket->tls != nullptr) socket->tls->Shutdown();
  if (!HasOutput(socket)) shutdown(socket->fd, SHUT_WR);
  UpdateWatch(socket);
  return nullptr;
}

napi_value Text(napi_env env, const std::string& text) {
  napi_value value;
  NETDRIVE_CHECK(env, napi_create_string_latin1(env, text.data(), text.size(), &value));
  return value;
}

// tlsReason(socket): what is known of a failure of TLS, or "".
napi_value Reason(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  return socket == nullptr ? nullptr : Text(env, socket->tls == nullptr ? "" : socket->tls->reason());
}

// tlsVerifyFailure(socket): what is wrong with the peer's certificate, or "". The engine must have shaken hands, as for what follows.
napi_value VerifyFailure(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  if (socket->tls == nullptr) return arguments.Wrong();
  return Text(env, socket->tls->VerifyFailure());
}

// tlsCipher(socket): what encrypts the records, as RFC 8446 calls it.
napi_value Cipher(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  if (socket->tls == nullptr) return arguments.Wrong();
  return Text(env, socket->tls->Cipher());
}

// tlsCertificate(socket): the peer's, DER; empty if it has none.
napi_value Certificate(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  if (socket->tls == nullptr) return arguments.Wrong();
  const std::vector<uint8_t> der = socket->tls->PeerCertificate();
  napi_value buffer;
  NETDRIVE_CHECK(env, napi_create_buffer_copy(env, der.size(), der.data(), nullptr, &buffer));
  return buffer;
}

// tlsExport(socket, label, buffer): fills the buffer with what only both ends can know (RFC 8446, 7.5); 0 or -errno.
napi_value ExportKeys(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  const std::string label = arguments.Path(1);
  const Bytes out = arguments.Buffer(2);
  if (!arguments.ok() || socket->tls == nullptr) return arguments.Wrong();
  return Number(env, socket->tls->Export(label, out.data, out.size) ? 0 : -EPROTO);
}

// tcpClose(socket): no callback follows.
napi_value Close(napi_env env, napi_callback_info info) {
  Arguments arguments(env, info);
  Socket* socket = GetSocket(env, arguments.value(0));
  if (socket == nullptr) return nullptr;
  CloseSocket(socket);
  DropCallbacks(socket);
  return nullptr;
}

}  // namespace

napi_value RegisterTcpSocket(napi_env env, napi_value exports) {
  constexpr struct {
    const char* name;
    napi_callback function;
  } kFunctions[] = {{"tcpAdopt", Adopt},       {"tcpSecure", Secure},     {"tcpStart", Start},
                    {"tcpPlace", Place},       {"tcpRead", Read},         {"tcpPump", Pump},
                    {"tcpSend", SendBuffers},  {"tcpShutdown", Shutdown}, {"tcpClose", Close},
                    {"tlsReason", Reason},     {"tlsExport", ExportKeys}, {"tlsCertificate", Certificate},
                    {"tlsCipher", Cipher},     {"tlsVerifyFailure", VerifyFailure}};
  for (const auto& each : kFunctions) {
    if (Export(env, exports, each.name, each.function) == nullptr) return nullptr;
  }
  return exports;
}

}  // namespace netdrive
