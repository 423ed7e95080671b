"""SFT, RL, rewards, rollouts, export."""
