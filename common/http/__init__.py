"""What the routes of both sides share: who asks, what they may, and how a refusal reads."""
