// The class of one thread's calls: while this lives, blocking Get and Recall calls that its thread
// makes on any Client are prefetch: nobody waits for their pages yet, and the store gives way to all
// that is not prefetch.
//
//   const client::PrefetchCalls prefetch;
//   client->Recall(query_of_the_next_step);
#pragma once

#include <utility>

namespace varve::client {

class PrefetchCalls {
 public:
  PrefetchCalls() : outer_(std::exchange(Flag(), true)) {}
  ~PrefetchCalls() { Flag() = outer_; }
  PrefetchCalls(const PrefetchCalls&) = delete;
  PrefetchCalls& operator=(const PrefetchCalls&) = delete;

  // Of the calling thread's calls.
  static bool On() { return Flag(); }

 private:
  static bool& Flag() {
    thread_local bool prefetch = false;
    return prefetch;
  }

  const bool outer_;
};

}  // namespace varve::client
