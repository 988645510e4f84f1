#include "kvstore/transport/fault.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <thread>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/time/clock.h"
#include "kvstore/base/executor.h"
#include "kvstore/base/mutex.h"

namespace varve::transport {
namespace {

// Runs tasks at given times on one thread. The destructor drops what is still to come.
class TimerThread {
 public:
  TimerThread() : thread_([this] { Loop(); }) {}
  ~TimerThread() {
    {
      base::MutexLock lock(mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    thread_.join();
  }

  void At(absl::Time when, base::Task task) {
    base::MutexLock lock(mutex_);
    tasks_.emplace(when, std::move(task));
    changed_.NotifyAll();
  }

 private:
  void Loop() {
    base::NameThisThread("faults");
    mutex_.Lock();
    while (!stopping_) {
      const absl::Time now = absl::Now();
      if (tasks_.empty()) {
        changed_.Wait(mutex_);
      } else if (tasks_.begin()->first > now) {
        changed_.WaitFor(mutex_, absl::ToChronoNanoseconds(tasks_.begin()->first - now));
      } else {
        base::Task task = std::move(tasks_.extract(tasks_.begin()).mapped());
        mutex_.Unlock();
        std::move(task)();
        mutex_.Lock();
      }
    }
    mutex_.Unlock();
  }

  base::Mutex mutex_;
  base::CondVar changed_;
  std::multimap<absl::Time, base::Task> tasks_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// The plan and how far it has come.
class Script {
 public:
  explicit Script(FaultPlan plan) : plan_(std::move(plan)), random_(plan_.seed) {}

  Fault NextTransfer() {
    base::MutexLock lock(mutex_);
    const uint64_t index = transfers_++;
    const double draw = std::uniform_real_distribution<double>(0, 1)(random_);
    for (const FaultPlan::Rule& rule : plan_.rules) {
      if (rule.transfer == index) return rule.fault;
    }
    return ByChance(draw);
  }

  bool NextConnectFails() {
    base::MutexLock lock(mutex_);
    const uint64_t index = connects_++;
    return std::find(plan_.connects.begin(), plan_.connects.end(), index) != plan_.connects.end();
  }

  // A number below n.
  size_t Pick(size_t n) {
    base::MutexLock lock(mutex_);
    return random_() % n;
  }

 private:
  Fault ByChance(double draw) const {
    Fault fault;
    fault.delay = plan_.delay_time;
    for (const auto& [chance, kind] : {std::pair(plan_.fail, Fault::Kind::kFail),
                                       {plan_.delay, Fault::Kind::kDelay},
                                       {plan_.hang, Fault::Kind::kHang},
                                       {plan_.corrupt, Fault::Kind::kCorrupt}}) {
      if (draw < chance) {
        fault.kind = kind;
        return fault;
      }
      draw -= chance;
    }
    return fault;
  }

  const FaultPlan plan_;
  base::Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
  uint64_t transfers_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t connects_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct Post {
  bool read;
  std::vector<Segment> segments;
  absl::Time deadline;
  Done done;
};

// Damages one byte on its way: what a Read's copier sees, and what the peer of a Write gets.
class FlippingCopier final : public Copier {
 public:
  // target: in local memory.
  FlippingCopier(Copier& inner, bool read, const std::byte* target)
      : inner_(inner), read_(read), target_(target) {}

  void Copy(void* to, const void* from, size_t bytes) override {
    const auto at = static_cast<size_t>(target_ - static_cast<const std::byte*>(read_ ? to : from));
    if (at >= bytes) return inner_.Copy(to, from, bytes);
    if (!read_) {
      inner_.Copy(to, from, bytes);
      static_cast<std::byte*>(to)[at] ^= std::byte{1};
      return;
    }
    const auto* source = static_cast<const std::byte*>(from);
    std::vector<std::byte> damaged(source, source + bytes);
    damaged[at] ^= std::byte{1};
    inner_.Copy(to, damaged.data(), bytes);
  }

 private:
  Copier& inner_;
  const bool read_;
  const std::byte* const target_;
};

// The transfers that a fault keeps from the inner endpoint, and the inner endpoint itself. Outlives
// the decorator's endpoint while a timer refers to it.
class Held : public std::enable_shared_from_this<Held> {
 public:
  Held(std::unique_ptr<Endpoint> inner, std::shared_ptr<Script> script, TimerThread& timers)
      : inner_(std::move(inner)), script_(std::move(script)), timers_(timers) {}

  Endpoint& inner() { return *inner_; }

  void Start(Post post) {
    Fault fault = script_->NextTransfer();
    switch (fault.kind) {
      case Fault::Kind::kNone:
        return Forward(std::move(post));
      case Fault::Kind::kFail:
        return std::move(post.done)(std::move(fault.status));
      case Fault::Kind::kCorrupt:
        return Corrupt(std::move(post));
      case Fault::Kind::kHoldToClose:
        return Hold(std::move(post), absl::InfiniteFuture());
      case Fault::Kind::kDelay:
        return Hold(std::move(post), absl::Now() + fault.delay);
      case Fault::Kind::kHang:
        return Hold(std::move(post), post.deadline);
    }
  }

  void Close() {
    inner_->Close();
    std::map<uint64_t, Post> held;
    {
      base::MutexLock lock(mutex_);
      closed_ = true;
      held.swap(held_);
    }
    for (auto& [id, post] : held) std::move(post.done)(absl::CancelledError("endpoint closed"));
  }

  // Close, and every Done has run.
  void Finish() {
    Close();
    {
      base::MutexLock lock(mutex_);
      while (releasing_ > 0) idle_.Wait(mutex_);
    }
    inner_.reset();
  }

 private:
  void Forward(Post post) {
    post.read ? inner_->Read(std::move(post.segments), post.deadline, std::move(post.done))
              : inner_->Write(std::move(post.segments), post.deadline, std::move(post.done));
  }

  void Hold(Post post, absl::Time until) {
    uint64_t id = 0;
    {
      base::MutexLock lock(mutex_);
      if (!closed_) {
        id = ++last_id_;
        held_.emplace(id, std::move(post));
      }
    }
    if (id == 0) return std::move(post.done)(absl::CancelledError("endpoint closed"));
    if (until == absl::InfiniteFuture()) return;
    timers_.At(until, [self = shared_from_this(), id] { self->Release(id); });
  }

  // Time is up for a held transfer: it goes on, or has run out of time.
  void Release(uint64_t id) {
    std::map<uint64_t, Post>::node_type node;
    {
      base::MutexLock lock(mutex_);
      node = held_.extract(id);
      if (node.empty()) return;
      ++releasing_;
    }
    Post& post = node.mapped();
    if (absl::Now() < post.deadline) {
      Forward(std::move(post));
    } else {
      Close();  // first: whoever hears of the deadline finds the endpoint closed
      std::move(post.done)(absl::DeadlineExceededError("injected hang"));
      post.done = nullptr;
    }
    base::MutexLock lock(mutex_);
    if (--releasing_ == 0) idle_.NotifyAll();
  }

  void Corrupt(Post post) {
    // The piece and the byte to hit.
    std::vector<size_t> pieces;
    for (size_t i = 0; i < post.segments.size(); ++i) {
      if (!post.segments[i].local.empty()) pieces.push_back(i);
    }
    if (pieces.empty()) return Forward(std::move(post));
    Segment& segment = post.segments[pieces[script_->Pick(pieces.size())]];
    std::span<std::byte>& local = segment.local;
    const size_t at = script_->Pick(local.size());
    if (segment.copier != nullptr && segment.remote->way() != RemoteRegion::Way::kDirect) {
      auto flip = std::make_unique<FlippingCopier>(*segment.copier, post.read, &local[at]);
      segment.copier = flip.get();
      post.done = [flip = std::move(flip), done = std::move(post.done)](
                      absl::Status status) mutable { std::move(done)(std::move(status)); };
    } else if (post.read) {
      post.done = [local, at, done = std::move(post.done)](absl::Status status) mutable {
        if (status.ok()) local[at] ^= std::byte{1};
        std::move(done)(std::move(status));
      };
    } else {
      auto copy = std::make_unique<std::vector<std::byte>>(local.begin(), local.end());
      (*copy)[at] ^= std::byte{1};
      local = *copy;
      post.done = [copy = std::move(copy), done = std::move(post.done)](
                      absl::Status status) mutable { std::move(done)(std::move(status)); };
    }
    Forward(std::move(post));
  }

  std::unique_ptr<Endpoint> inner_;
  const std::shared_ptr<Script> script_;
  TimerThread& timers_;
  base::Mutex mutex_;
  base::CondVar idle_;
  std::map<uint64_t, Post> held_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  int releasing_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

class FaultEndpoint final : public Endpoint {
 public:
  explicit FaultEndpoint(std::shared_ptr<Held> held) : held_(std::move(held)) {}
  ~FaultEndpoint() override { held_->Finish(); }

  absl::StatusOr<std::unique_ptr<RemoteRegion>> Import(const std::string& descriptor) override {
    return held_->inner().Import(descriptor);
  }
  void Close() override { held_->Close(); }
  absl::Status Health() const override { return held_->inner().Health(); }
  const char* lane() const override { return held_->inner().lane(); }

 private:
  void DoRead(std::vector<Segment> segments, absl::Time deadline, Done done) override {
    held_->Start({true, std::move(segments), deadline, std::move(done)});
  }
  void DoWrite(std::vector<Segment> segments, absl::Time deadline, Done done) override {
    held_->Start({false, std::move(segments), deadline, std::move(done)});
  }

  const std::shared_ptr<Held> held_;
};

class FaultTransport final : public Transport {
 public:
  FaultTransport(std::unique_ptr<Transport> inner, FaultPlan plan)
      : inner_(std::move(inner)), script_(std::make_shared<Script>(std::move(plan))) {}

  const char* name() const override { return inner_->name(); }
  std::string Address() const override { return inner_->Address(); }
  absl::StatusOr<std::unique_ptr<Region>> Register(std::span<std::byte> memory) override {
    return inner_->Register(memory);
  }
  absl::StatusOr<std::unique_ptr<Region>> Allocate(size_t bytes) override {
    return inner_->Allocate(bytes);
  }

 private:
  absl::StatusOr<std::unique_ptr<Endpoint>> DoConnect(const std::string& address,
                                                      absl::Duration timeout) override {
    if (script_->NextConnectFails()) return absl::UnavailableError("injected fault: no connection");
    auto endpoint = inner_->Connect(address, timeout);
    if (!endpoint.ok()) return endpoint.status();
    return std::make_unique<FaultEndpoint>(
        std::make_shared<Held>(*std::move(endpoint), script_, timers_));
  }

  std::unique_ptr<Transport> inner_;
  const std::shared_ptr<Script> script_;
  TimerThread timers_;
};

}  // namespace

std::unique_ptr<Transport> MakeFaultTransport(std::unique_ptr<Transport> inner, FaultPlan plan) {
  return std::make_unique<FaultTransport>(std::move(inner), std::move(plan));
}

}  // namespace varve::transport
